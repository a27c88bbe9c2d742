"""Where a model is from: loading it and its processor, in the dtype and on the device where scoring is fast."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from inspect import signature
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from hf_dlc.config import DLCConfig
from hf_dlc.errors import DLCError
from hf_dlc.execution.processes import process_state
from hf_dlc.tasks.table import Processor, TaskKind, kind_for, why_no_config
from hf_dlc.utils.digests import model_digest, processor_digest

from .checkpoints import check_adapter, check_folder, check_quantisation, check_weights, missing_weights


logger = logging.getLogger(__name__)

_IMPORTED_IN = os.getpid()

# What of `model_kwargs` the configuration and the tokenizer need as well.
_SHARED_KWARGS = {
    *("cache_dir", "force_download", "gguf_file", "local_files_only", "subfolder"),
    *("token", "trust_remote_code"),  # of the Hub
}

# What of them is taken beside the options of a scorer as well, as `from_pretrained` of transformers has it.
_USUAL_KWARGS = {*_SHARED_KWARGS, "attn_implementation", "device_map", "max_memory", "variant"}

# What must not be among `model_kwargs`, and where it is said instead.
_DTYPE_PLACE = "Pass dtype='float32', 'bfloat16' or 'float16' to DLCConfig(dtype=...) or DLCScorer.from_pretrained."
_ELSEWHERE = {
    "dtype": _DTYPE_PLACE,
    "torch_dtype": _DTYPE_PLACE,
    "revision": "Pass it as DLCScorer.from_pretrained(..., revision=...).",
    "task": "Pass it as DLCScorer.from_pretrained(..., task=...).",
    "device": "Pass it as DLCScorer.from_pretrained(..., device=...).",
    "config": "Pass the options that should differ by their names, or change the config.json of the model.",
    "output_loading_info": "Leave it out: missing weights are an error.",
    "ignore_mismatched_sizes": "Leave it out: weights of another shape are an error.",
}


@dataclass(frozen=True)
class ModelSource:
    """
    Where a model can be loaded from, now and again in a worker process.

    Args:
        model_id (`str`):
            Repository on the Hub or local folder.
        revision (`str`, *optional*):
            Branch, tag or commit.
        dtype (`str`, *optional*, defaults to `"float32"`):
            Dtype of the weights.
        device (`str`, *optional*, defaults to `"cpu"`):
            Where the model goes, unless `model_kwargs` has a `device_map`.
        model_kwargs (`dict`, *optional*):
            Further arguments of `from_pretrained` of the model's class.
    """

    model_id: str
    revision: str | None = None
    dtype: str = "float32"
    device: str = "cpu"
    model_kwargs: dict[str, Any] = field(default_factory=dict, repr=False)  # may hold a token

    @classmethod
    def resolve(
        cls,
        model_id: str | Path,
        revision: str | None = None,
        dtype: str = "auto",
        device: str | torch.device | None = None,
        model_kwargs: dict[str, Any] | None = None,
    ) -> ModelSource:
        """
        Settle what was left open: the device, the dtype that is fast on it, the file in a path to a GGUF file.

        Args:
            model_id (`str` or `Path`):
                Repository on the Hub, local folder or local `.gguf` file.
            revision (`str`, *optional*):
                Branch, tag or commit.
            dtype (`str`, *optional*, defaults to `"auto"`):
                Dtype of the weights; `"auto"` is the one that is fast on the device.
            device (`str` or `torch.device`, *optional*):
                By default this process's accelerator, else the CPU.
            model_kwargs (`dict`, *optional*):
                Further arguments of `from_pretrained` of the model's class.

        Returns:
            [`ModelSource`]: With device and dtype settled.

        Raises:
            FileNotFoundError: If `model_id` is a path and nothing is there.
            ValueError: If `model_kwargs` has what is said elsewhere.
        """
        model_kwargs = dict(model_kwargs or {})
        _check_kwargs(model_kwargs, device)
        if model_kwargs.get("subfolder", "") is None:  # the same as none, for which transformers wants no word
            del model_kwargs["subfolder"]
        path = Path(model_id).expanduser()
        if path.is_file() and path.suffix == ".gguf":
            model_id, model_kwargs["gguf_file"] = path.parent, path.name
        elif path.exists():
            model_id = path
        elif looks_like_a_path(str(model_id)):
            raise FileNotFoundError(
                f"there is no model at {str(model_id)!r}. Pass a folder with a config.json, a .gguf file, or the id "
                "of a repository such as 'HuggingFaceTB/SmolLM2-135M-Instruct'."
            )
        device = torch.device(device) if device is not None else process_state().device
        if dtype == "auto":
            dtype = "bfloat16" if is_fast_at_bfloat16(device) else "float32"
        return cls(str(model_id), revision, dtype, str(device), model_kwargs)

    def without_token(self) -> ModelSource:
        """The same source for a worker process, which finds a token where the Hub client looks for one."""
        kwargs = {key: value for key, value in self.model_kwargs.items() if key != "token"}
        return replace(self, model_kwargs=kwargs)

    def load(self) -> tuple[PreTrainedModel, Processor]:
        """
        The model, in eval mode, and its tokenizer or image processor.

        Raises:
            ValueError: If no task can score the model, or if its files are not whole.
        """
        shared = {key: value for key, value in self.model_kwargs.items() if key in _SHARED_KWARGS}
        shared["revision"] = self.revision
        config = self._load_config(shared)
        options = {**self.model_kwargs, "revision": self.revision, "dtype": getattr(torch, self.dtype)}
        kind = kind_for(config, config.architectures or [])
        kind.check(config, self.model_id)
        if "gguf_file" in options:
            options = {**_dequantised(), **options}
        check_quantisation(config, options, self.model_id)
        model = _load_whole(kind, self.model_id, config, options)
        processor = kind.load_processor(self.model_id, shared)
        if "device_map" not in options:
            model = model.to(self.device)
        name = self.model_kwargs.get("gguf_file") or self.model_id
        logger.info("loaded %s in %s on %s", name, str(model.dtype).removeprefix("torch."), model.device)
        return model.eval(), processor

    def _load_config(self, shared: dict[str, Any]) -> PreTrainedConfig:
        """The configuration that the model will have, or a word on what is there in place of a model."""
        folder = Path(self.model_id, self.model_kwargs.get("subfolder", ""))
        if "gguf_file" not in self.model_kwargs and folder.exists():
            check_folder(folder)
        try:
            config = AutoConfig.from_pretrained(self.model_id, **shared)
        except ImportError as error:
            if message := why_no_config(error, self.model_id):
                raise ValueError(message) from error
            raise
        except (OSError, ValueError):
            if not folder.exists():
                check_adapter(self.model_id, shared)
            raise
        config.return_dict = True  # as the loaded model will have it
        return config


class ModelHandle:
    """
    A model and its processor: here, or where they can be loaded again in the worker process that they were sent to.

    Args:
        source ([`ModelSource`], *optional*):
            Where they can be loaded from; `None` of a model that was handed over in memory.
        loaded (`tuple`, *optional*):
            The model and its processor.
        digests (`tuple[str, str]`, *optional*):
            Digests of those that were sent here, for what is loaded in their place.
    """

    def __init__(
        self,
        source: ModelSource | None,
        loaded: tuple[PreTrainedModel, Processor] | None = None,
        digests: tuple[str, str] | None = None,
    ) -> None:
        self.source = source
        self._loaded = loaded
        self._digests = digests

    @property
    def model(self) -> PreTrainedModel:
        """The model, loaded now if it is not here."""
        return self._load()[0]

    @property
    def processor(self) -> Processor:
        """The tokenizer or image processor, loaded now if it is not here."""
        return self._load()[1]

    @property
    def is_loaded(self) -> bool:
        """Whether the model is here."""
        return self._loaded is not None

    @property
    def is_local(self) -> bool:
        """Whether the model is known on this machine only."""
        return self.source is None or Path(self.source.model_id).exists()

    @property
    def name(self) -> str:
        """Repository or folder, of a model in memory its class."""
        return self.source.model_id if self.source else type(self.model).__name__

    @property
    def revision(self) -> str | None:
        """Branch, tag or commit, of a model that was loaded."""
        return self.source.revision if self.source else None

    @property
    def gguf_file(self) -> str | None:
        """File in the repository or folder, of a GGUF model."""
        return self.source.model_kwargs.get("gguf_file") if self.source else None

    def place(self, rank: int | None) -> None:
        """
        Say which worker process this is, so that a model that is yet to be loaded goes to an accelerator of its own.

        Args:
            rank (`int`, *optional*):
                Number of the worker; where there are more of them than accelerators, some share one.
        """
        if rank is None or self.is_loaded or self.source is None or "device_map" in self.source.model_kwargs:
            return
        kind = torch.device(self.source.device).type
        if kind != "cpu":
            device = f"{kind}:{rank % max(1, torch.accelerator.device_count())}"
            self.source = replace(self.source, device=device)

    def _load(self) -> tuple[PreTrainedModel, Processor]:
        if self._loaded is None:
            if self.source is None:
                raise DLCError(
                    "this scorer holds a model that was handed over in memory, and a worker process cannot load it "
                    "again. Make the scorer by DLCScorer.from_pretrained(id or path) to use num_proc, or leave it out."
                )
            if os.getpid() != _IMPORTED_IN:
                if torch.device(self.source.device).type == "cuda":
                    raise DLCError(
                        "a worker process that is forked cannot compute on CUDA. Call "
                        "multiprocess.set_start_method('spawn') before dataset.map(scorer, num_proc=...), in a script "
                        "under `if __name__ == '__main__':`, or leave num_proc out."
                    )
                # OpenMP hangs in a forked child whose parent has used it; one thread does without.
                torch.set_num_threads(1)
            model, processor = self.source.load()
            if (model_digest(model), processor_digest(processor)) != self._digests:
                raise DLCError(
                    f"the weights or the processor of {self.source.model_id!r} are not those of the scorer that was "
                    "sent here: they were changed in memory. Save both and make the scorer from that folder to use "
                    "num_proc."
                )
            self._loaded = model, processor
        return self._loaded


def _dequantised() -> dict[str, Any]:
    """Options under which the weights of a GGUF file become ordinary floats: packed ones cannot be masked."""
    config = getattr(transformers, "GgufConfig", None)  # earlier releases know floats only
    return {"quantization_config": config(dequantize=True)} if config else {}


def _load_whole(kind: TaskKind, model_id: str, config: PreTrainedConfig, options: dict[str, Any]) -> PreTrainedModel:
    """A model all of whose weights are in the checkpoint: weights made up on loading would score at random."""
    auto = kind.model_class(config)
    options = {**options, "output_loading_info": True, "ignore_mismatched_sizes": True}
    with _no_report():
        model, info = auto.from_pretrained(model_id, **options)
        lost = missing_weights(model, info)
        takes = signature(type(model).__init__).parameters
        if lost and all("pooler" in name for name in lost) and "add_pooling_layer" in takes:
            # A part that we do not use, and that not all have.
            model, info = auto.from_pretrained(model_id, **options, add_pooling_layer=False)
    check_weights(model, info, config, model_id, kind.uses_all_weights)
    for part in model.modules():
        if isinstance(part, PreTrainedModel):
            part.config.return_dict = True
    return model


@contextmanager
def _no_report() -> Iterator[None]:
    """Without the table of weights that do not fit: `check_weights` says what of it matters."""
    reporter = logging.getLogger("transformers.modeling_utils")

    def is_something_else(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR or "LOAD REPORT" not in record.getMessage()

    reporter.addFilter(is_something_else)  # a level of its own would make transformers report something else
    try:
        yield
    finally:
        reporter.removeFilter(is_something_else)


def is_fast_at_bfloat16(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 are faster on `device` than in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return False


def loading_options(
    options: Mapping[str, Any], model_kwargs: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """
    Tell the arguments with which a model is loaded from the options of a scorer.

    Args:
        options (`Mapping[str, Any]`):
            Both by their names; a dtype may be that of torch.
        model_kwargs (`Mapping[str, Any]`):
            Arguments with which a model is loaded.

    Returns:
        `tuple[dict[str, Any], dict[str, Any]]`: Arguments with which a model is loaded, and options of a scorer.

    Raises:
        TypeError: If there is no such option.
        ValueError: If an argument is given twice.
    """
    usual = {name: value for name, value in options.items() if name in _USUAL_KWARGS}
    if twice := sorted(usual.keys() & model_kwargs.keys()):
        raise ValueError(f"pass {twice[0]} once: by its name, or in model_kwargs.")
    others = {name: value for name, value in options.items() if name not in usual}
    known = {option.name for option in fields(DLCConfig)}
    if unknown := [name for name in others if name not in known]:
        place = _ELSEWHERE.get(unknown[0], "Options are those of DLCConfig; pass others of the model in model_kwargs.")
        raise TypeError(f"from_pretrained got an unexpected keyword argument {unknown[0]!r}. {place}")
    if isinstance(others.get("dtype"), torch.dtype):
        others["dtype"] = str(others["dtype"]).removeprefix("torch.")
    return {**model_kwargs, **usual}, others


def _check_kwargs(model_kwargs: dict[str, Any], device: str | torch.device | None) -> None:
    """Nothing that was passed is dropped: what has a place of its own is refused here."""
    for name, place in _ELSEWHERE.items():
        if name in model_kwargs:
            raise ValueError(f"model_kwargs must not hold {name}, got {model_kwargs[name]!r}. {place}")
    if device is not None and "device_map" in model_kwargs:
        raise ValueError(
            f"pass device or a device_map, not both, got device={str(device)!r} and "
            f"device_map={model_kwargs['device_map']!r}."
        )


def looks_like_a_path(model_id: str) -> bool:
    """A Hub id is `name` or `owner/name`; everything else can only be a path."""
    return model_id.startswith((".", "/", "~")) or model_id.count("/") > 1 or model_id.endswith(".gguf")
