# The registry's service and the command line; no torch. Build from the repository's root:
#
#   docker build -f docker/registry.Dockerfile -t lorary/registry:0.1.0 .
#
# Not built in this project's own checks: the machines that run them have no container runtime.
# Pin the base by digest for your platform: --build-arg BASE=python:3.11.14-slim-bookworm@sha256:...
ARG BASE=python:3.11.14-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY adapters adapters
COPY registry registry
COPY serving serving
COPY eval eval
COPY requirements requirements
# The versions that were tested, of those packages that the base install asks for.
RUN python -m venv /opt/lorary \
 && /opt/lorary/bin/pip install --no-cache-dir --constraint requirements/cpu.txt .

FROM ${BASE}
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin lorary
COPY --from=build /opt/lorary /opt/lorary
ENV PATH=/opt/lorary/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
EXPOSE 8100
ENTRYPOINT ["lorary"]
CMD ["serve-registry", "--host", "0.0.0.0"]
