# Two stages: the first installs into a virtual environment, the second carries it and nothing that built it.
# The only network that the build needs is the one to the image and package registries.

ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
WORKDIR /src
COPY pyproject.toml README.md ./
COPY proxy ./proxy
RUN python -m venv /opt/tidegate \
 && /opt/tidegate/bin/pip install --no-cache-dir --disable-pip-version-check . \
 && /opt/tidegate/bin/python -m compileall -q /opt/tidegate/lib

FROM python:${PYTHON}-slim
ENV PATH=/opt/tidegate/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
RUN useradd --system --uid 10001 --home-dir /var/lib/tidegate --create-home --shell /usr/sbin/nologin tidegate \
 && install -d -o tidegate -g tidegate -m 0750 /etc/tidegate
COPY --from=build /opt/tidegate /opt/tidegate
COPY config/container.yaml /etc/tidegate/tidegate.yaml
USER 10001
WORKDIR /var/lib/tidegate
VOLUME /var/lib/tidegate
EXPOSE 8080 9900
STOPSIGNAL SIGTERM

# `healthcheck` asks /readyz of the admin API; TIDEGATE_ADMIN says where, if it is not http://127.0.0.1:9900.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 CMD ["tidegate", "healthcheck"]

# config/container.yaml says which variables it takes (-e STABLE=http://…); mount another config over it, or give other
# arguments: docker run -p 8080:8080 tidegate run --stable http://10.0.0.5:8000 --new http://10.0.0.6:8000
ENTRYPOINT ["tidegate"]
CMD ["run", "--config", "/etc/tidegate/tidegate.yaml"]
