"""What people do with huggingface_hub, call by call, under whichever version is first on the path.

    python -m tests.support.hub_calls SCENE.json

HF_ENDPOINT and HF_TOKEN name the registry and the key. Prints one line of JSON for each call: its
name, its outcome and why.

    works
    not offered            the exception, or the command, shows that Lorary does not do it
    refused                it shows why this one is refused, as it should be
    asks huggingface.co    whatever HF_ENDPOINT says
    absent                 this version has no such call
    fault                  anything else
"""
