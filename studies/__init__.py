"""The paper's controlled experiments on the fusion modules of the agent: `python -m studies.<name>`."""
