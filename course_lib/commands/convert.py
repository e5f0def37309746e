"""Checkpoints to compressed files and back: `python -m course_lib {compress,decompress}`.

A checkpoint is a safetensors file of any network's state dict. Its weights of two dimensions are taken as dense layers, those
of three to five as convolutions; all else is stored as it is.
"""

from pathlib import Path

from torch import Tensor, nn

from course_lib import storage
from course_lib.files import replacing
from course_lib.papers import deep_compression
from course_lib.storage import networks

LAYERS = {2: nn.Linear, 3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}  # by dimensions of the weight


def compress(checkpoint: Path, out: Path, bits: str, index_bits: str, coder: str) -> None:
    """Compress a checkpoint whose zeros are its pruned weights; print what became of its bytes.

    Args:
        checkpoint: a safetensors file.
        out: the file to write; another one than `checkpoint`.
        bits: of a code, '5' or 'conv=8,dense=5,fc1=4'.
        index_bits: of a gap, likewise.
        coder: 'fixed', 'huffman', 'ans' or 'context', which takes index bits 0.

    Raises:
        ValueError: no such checkpoint format, impossible bits, or `out` is the checkpoint.
        FileNotFoundError: there is no checkpoint.
    """
    _check_apart(checkpoint, out)
    model = skeleton(_tensors(checkpoint))
    compressed = deep_compression.compress(
        model, bits=parsed(bits), index_bits=parsed(index_bits), coder=coder, name=checkpoint.name.split(".")[0]
    )
    storage.save(compressed, out)
    before, after = checkpoint.stat().st_size, out.stat().st_size
    print(f"{checkpoint.name}: {before:,} bytes; {out.name}: {after:,} bytes, {before / after:.1f} times fewer")


def decompress(file: Path, out: Path) -> None:
    """Write what a compressed file holds as a safetensors checkpoint.

    Raises:
        course_lib.storage.CorruptFileError: the file is damaged.
        FileNotFoundError: there is none.
        ValueError: `out` is the file.
    """
    from safetensors.torch import save_file

    _check_apart(file, out)
    compressed = storage.load(file)
    with replacing(out) as scratch:
        save_file({name: tensor.contiguous() for name, tensor in compressed.state_dict().items()}, scratch)
    print(f"{out.name}: {len(compressed.tensors)} tensors of {compressed.network or 'a network without a name'}")


def skeleton(tensors: dict[str, Tensor]) -> nn.Module:
    """Return a module that cannot compute, but has these tensors under these names, and layers where weights have their shape."""
    root = nn.Module()
    for name, tensor in tensors.items():
        owner, _, field = name.rpartition(".")
        module = root
        for part in owner.split(".") if owner else []:
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module._modules[part]
        if field == "weight" and tensor.dim() in LAYERS and tensor.is_floating_point():
            module.__class__ = LAYERS[tensor.dim()]
        if field in ("weight", "bias") and tensor.is_floating_point():
            module.register_parameter(field, nn.Parameter(tensor))
        else:
            module.register_buffer(field, tensor)
    for module in root.modules():
        if isinstance(module, tuple(LAYERS.values())) and "bias" not in module._parameters:
            module.register_parameter("bias", None)
    return root


def parsed(text: str) -> deep_compression.Bits:
    """Return '5' as 5, 'conv=8,dense=5' as a dict. Raises ValueError for anything else."""
    try:
        if "=" not in text:
            return int(text)
        return {name: int(bits) for name, bits in (part.split("=") for part in text.split(","))}
    except ValueError:
        raise ValueError(f"bits are {text!r}; expected a number, or numbers by name such as conv=8,dense=5") from None


def _tensors(checkpoint: Path) -> dict[str, Tensor]:
    """The state dict in a safetensors file; in one of `storage.networks` too, whose weights may be coded."""
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    if not checkpoint.is_file():
        raise FileNotFoundError(f"no checkpoint {checkpoint}")
    try:
        with safe_open(checkpoint, framework="pt") as file:
            saved_by_the_course = networks.PLAN in (file.metadata() or {})
        if not saved_by_the_course:
            return load_file(checkpoint)
        steps, tensors = networks.read(checkpoint)
        if steps:
            print(f"{checkpoint.name} was narrowed; the compressed file holds its weights, but not which channels were kept")
        return tensors
    except SafetensorError as reason:
        raise ValueError(f"checkpoint {checkpoint} is no safetensors file ({reason})") from reason


def _check_apart(source: Path, out: Path) -> None:
    if out.resolve() == source.resolve():
        raise ValueError(f"--out is {out}, the file that is read; name another one")
