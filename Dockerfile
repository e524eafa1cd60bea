# Retinue for the pods of a Ray cluster; see k8s/README.md.
#   docker build -t retinue:0.1.0 .
FROM python:3.11.14-slim-bookworm

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PYTHONUNBUFFERED=1

RUN groupadd --gid 1000 retinue \
    && useradd --uid 1000 --gid retinue --no-create-home --home-dir /tmp retinue

WORKDIR /opt/retinue

# What Retinue needs, in a layer that changes with versions only, not with every line of code.
COPY pyproject.toml constraints.txt ./
RUN python -c "import tomllib; \
project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
print(*project['dependencies'], *project['optional-dependencies']['kubernetes'], 'setuptools', sep='\n')" \
    > requirements.txt \
    && pip install -r requirements.txt -c constraints.txt

COPY README.md LICENSE ./
COPY actors actors
COPY cluster cluster
COPY retinue retinue
RUN pip install --no-deps --no-build-isolation .

# The agents of the examples are imported on every node.
COPY examples examples
COPY k8s/survey/job.py survey_job.py
ENV PYTHONPATH=/opt/retinue/examples \
    PYTHONDONTWRITEBYTECODE=1

USER 1000:1000
CMD ["retinue", "--help"]
