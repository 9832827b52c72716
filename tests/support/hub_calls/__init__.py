"""What people do with huggingface_hub, call by call, under whichever version is first on the path.

    python -m tests.support.hub_calls SCENE.json

HF_ENDPOINT and HF_TOKEN name the registry and the key. Prints one line of JSON for each call: its
name and its outcome, which is "works", "not offered" (the exception or the command shows the words
that are expected), "asks huggingface.co" (whatever HF_ENDPOINT says), "absent" (this version has no
such call) or "fault", and then why.
"""
