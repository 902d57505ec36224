# The CPU build with envpool:  docker build -t mimpala . && docker run --rm -v "$PWD/runs:/mimpala/runs" mimpala train
FROM python:3.13-slim
# What envpool 1.2.7 needs and python:slim lacks.
RUN apt-get update && apt-get install -y --no-install-recommends libegl1 libopengl0 && rm -rf /var/lib/apt/lists/*
WORKDIR /mimpala
COPY . .
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu -c constraints.txt -e ".[envpool]"
ENTRYPOINT ["mimpala"]
CMD ["--help"]
