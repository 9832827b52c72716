# vLLM on NVIDIA GPUs behind the gate. Build from the repository's root:
#
#   docker build -f docker/serving-gpu.Dockerfile -t lorary/serving-gpu:0.1.0 .
#
# Neither built nor run in this project's own checks: their machines have no container runtime and
# no GPU. Lorary's part is the same code as on CPUs.
# Pin the base by digest for your platform: --build-arg BASE=vllm/vllm-openai:v0.32.0@sha256:...
ARG BASE=vllm/vllm-openai:v0.32.0

FROM ${BASE}
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY adapters adapters
COPY registry registry
COPY serving serving
COPY eval eval
COPY requirements requirements
# vLLM and torch are the base image's own; of the rest what it lacks, at the versions tested.
RUN python3 -m venv --system-site-packages /opt/lorary \
 && grep -ivE '^(#|(torch|vllm|triton)=)' requirements/gpu.txt > /tmp/constraints.txt \
 && /opt/lorary/bin/pip install --no-cache-dir --constraint /tmp/constraints.txt . \
 && rm /tmp/constraints.txt \
 && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin lorary
ENV PATH=/opt/lorary/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
EXPOSE 8000
ENTRYPOINT ["lorary"]
CMD ["serve", "--host", "0.0.0.0"]
