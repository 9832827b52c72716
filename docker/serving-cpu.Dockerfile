# vLLM on CPUs (x86-64 with AVX-512) behind the gate; also the image for jobs (`lorary/tools`), as
# its pins hold what training and evaluation need. Build from the repository's root:
#
#   docker build -f docker/serving-cpu.Dockerfile -t lorary/serving-cpu:0.1.0 .
#
# Not built in this project's own checks: the machines that run them have no container runtime.
# Pin the base by digest for your platform: --build-arg BASE=python:3.11.14-slim-bookworm@sha256:...
ARG BASE=python:3.11.14-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
COPY requirements requirements
# The list of pins is complete, so nothing is resolved.
RUN python -m venv /opt/lorary \
 && /opt/lorary/bin/pip install --no-cache-dir --no-deps --requirement requirements/cpu.txt \
      --extra-index-url https://download.pytorch.org/whl/cpu
COPY pyproject.toml README.md LICENSE ./
COPY adapters adapters
COPY registry registry
COPY serving serving
COPY eval eval
RUN /opt/lorary/bin/pip install --no-cache-dir --no-deps .

FROM ${BASE}
# vLLM binds its threads through libnuma, and compiles small kernels when it starts.
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc g++ libc6-dev libnuma1 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin lorary
COPY --from=build /opt/lorary /opt/lorary
ENV PATH=/opt/lorary/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
EXPOSE 8000
ENTRYPOINT ["lorary"]
CMD ["serve", "--host", "0.0.0.0"]
