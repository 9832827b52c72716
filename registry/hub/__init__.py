"""The part of the Hugging Face Hub's HTTP API that its own clients use to fetch and publish.

With `HF_ENDPOINT` set to this service and a Lorary key as the token, `huggingface_hub`,
`transformers` and `peft` work as they are. A repository is an adapter, a commit is a version, a
revision is a version's number, an alias, or a commit id; `main` is what the bare name means, the
alias `production`. A commit id is the first 40 digits of the version's digest.

Source: the requests that huggingface_hub 0.25 to 2.4 make; https://huggingface.co/docs/hub/api.
"""
