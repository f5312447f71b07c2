"""Scripts that drive a client's own code, each run by that client's environment: no smorm in them.

    PYTHON engines/drivers/ask_NAME.py JOB.json ANSWER.json

A job is `{"url", "export", "conversations": [{"prompt", "response"}]}`; the answer is
`{"scores": [number or null], "errors": [text or null]}`, one of each conversation."""
