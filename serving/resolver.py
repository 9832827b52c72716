"""vLLM's question "where does this adapter lie?", answered from the registry.

Extension point: `vllm.lora.resolver.LoRAResolver`, registered by the entry-point group
`vllm.general_plugins`, which vLLM calls in each of its processes.
"""


def register() -> None:
    """Register the resolver with vLLM. Called by vLLM; imports stay inside, for they are heavy."""
    from vllm.lora.request import LoRARequest
    from vllm.lora.resolver import LoRAResolver, LoRAResolverRegistry

    class RegistryResolver(LoRAResolver):  # type: ignore[misc] # vLLM ships no types for it
        """Resolves pinned names only: the gate has turned every other name into one."""

        async def resolve_lora(self, _base: str, lora_name: str) -> LoRARequest | None:
            """The request that lets the engine load `lora_name`, or None if it may not be."""
            path = await locate(lora_name)
            return None if path is None else LoRARequest(lora_name, 1, path)

    LoRAResolverRegistry.register_resolver("lorary", RegistryResolver())


async def locate(name: str) -> str | None:
    """The folder of a pinned version, brought here and verified; None for anything else."""
    from adapters.errors import LoraryError
    from adapters.names import AdapterRef
    from serving.replica import current

    replica = current()
    try:
        ref = AdapterRef.parse(name)
        if ref.version is None:
            return None
        version = replica.catalog.resolve(ref)
        replica.check_base(version)
        return str(await replica.cache.ensure(version))
    except LoraryError:
        return None
