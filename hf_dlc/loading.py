"""From the name of a model to the model and its tokenizer, in the dtype and on the device where scoring is fast."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download, is_offline_mode
from huggingface_hub.errors import (
    EntryNotFoundError,
    HFValidationError,
    LocalEntryNotFoundError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoTokenizer,
    BaseImageProcessor,
    GgufConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import is_torchvision_available

from .config import CONFIG_NAME
from .tasks.causal_lm import check_architecture
from .tasks.image_classification import has_head, is_image_model


logger = logging.getLogger(__name__)

STATE_NAME = "dlc_state.safetensors"

# What of `model_kwargs` the configuration and the tokenizer need as well.
_SHARED_KWARGS = ("cache_dir", "gguf_file", "local_files_only", "subfolder", "token", "trust_remote_code")


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
            Further arguments of `AutoModelForCausalLM.from_pretrained`.
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

        Raises:
            FileNotFoundError: If `model_id` is a path and nothing is there.
        """
        model_kwargs = dict(model_kwargs or {})
        path = Path(model_id).expanduser()
        if path.is_file() and path.suffix == ".gguf":
            model_id, model_kwargs["gguf_file"] = path.parent, path.name
        elif path.exists():
            model_id = path
        elif _looks_like_a_path(str(model_id)):
            raise FileNotFoundError(
                f"there is no model at {str(model_id)!r}. Pass a folder with a config.json, a .gguf file, or the id "
                "of a repository such as 'HuggingFaceTB/SmolLM2-135M-Instruct'."
            )
        device = torch.device(device) if device is not None else default_device()
        if dtype == "auto":
            dtype = "bfloat16" if is_fast_at_bfloat16(device) else "float32"
        return cls(str(model_id), revision, dtype, str(device), model_kwargs)

    def without_token(self) -> ModelSource:
        """The same source for a worker process, which finds a token where the Hub client looks for one."""
        kwargs = {key: value for key, value in self.model_kwargs.items() if key != "token"}
        return replace(self, model_kwargs=kwargs)

    def load(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | BaseImageProcessor]:
        """
        The model, in eval mode, and its tokenizer or image processor.

        Raises:
            ValueError: If the model is neither a decoder-only language model nor an image classifier.
        """
        shared = {key: value for key, value in self.model_kwargs.items() if key in _SHARED_KWARGS}
        shared["revision"] = self.revision
        config = AutoConfig.from_pretrained(self.model_id, **shared)
        options = {**self.model_kwargs, "revision": self.revision, "dtype": getattr(torch, self.dtype)}
        if is_image_model(config):
            model = _load_image_model(self.model_id, config, options)
            # Named, since the processor that is not installed would be warned of.
            backend = "torchvision" if is_torchvision_available() else "pil"
            processor = AutoImageProcessor.from_pretrained(self.model_id, **shared, backend=backend)
        else:
            check_architecture(config, self.model_id)
            if "gguf_file" in options:
                # Packed weights cannot be masked; dequantised ones are ordinary floats.
                options.setdefault("quantization_config", GgufConfig(dequantize=True))
            model = AutoModelForCausalLM.from_pretrained(self.model_id, **options)
            processor = AutoTokenizer.from_pretrained(self.model_id, **shared)
        if "device_map" not in options:
            model = model.to(self.device)
        name = self.model_kwargs.get("gguf_file") or self.model_id
        logger.info("loaded %s in %s on %s", name, self.dtype, model.device)
        return model.eval(), processor


def _load_image_model(model_id: str, config: PreTrainedConfig, options: dict[str, Any]) -> PreTrainedModel:
    """The classifier, or the body alone where no head was saved: weights made up on loading would score at random."""
    is_classifier = any(map(has_head, config.architectures or []))
    auto = AutoModelForImageClassification if is_classifier else AutoModel
    with _no_report():
        model, info = auto.from_pretrained(model_id, **options, output_loading_info=True)
    missing = sorted([*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])])
    if missing and all("pooler" in name for name in missing):  # a part that we do not use, and that not all have
        return auto.from_pretrained(model_id, **options, add_pooling_layer=False)
    if missing:
        raise ValueError(
            f"the checkpoint {model_id!r} lacks {len(missing)} of the weights of {type(model).__name__}, such as "
            f"{missing[0]}: they would be random. Save the whole model, or load another one."
        )
    return model


@contextmanager
def _no_report() -> Iterator[None]:
    """Without the table of missing weights, which is printed before anybody can say that they do not matter."""
    reporter = logging.getLogger("transformers.modeling_utils")

    def is_error(record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR

    reporter.addFilter(is_error)  # a level of its own would make transformers report something else
    try:
        yield
    finally:
        reporter.removeFilter(is_error)


def default_device() -> torch.device:
    """This process's accelerator, or the CPU."""
    from .execution.distributed import process_state

    return process_state().device


def is_fast_at_bfloat16(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 are faster on `device` than in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return False


def find_saved(model_id: str | Path, revision: str | None, model_kwargs: dict[str, Any]) -> Path | None:
    """The folder with the options that `save_pretrained` wrote, fetched if it is a repository; None without any."""
    path = Path(model_id).expanduser()
    if path.exists() or _looks_like_a_path(str(model_id)):
        return path if (path / CONFIG_NAME).is_file() else None
    known = {name: model_kwargs[name] for name in ("cache_dir", "local_files_only", "token") if name in model_kwargs}
    try:
        found = hf_hub_download(str(model_id), CONFIG_NAME, revision=revision, **known)
    except (EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError, HFValidationError):
        return None  # a model, or nothing at all, which loading it will say
    with suppress(RemoteEntryNotFoundError):  # there is none before `fit` or `calibrate`
        try:
            hf_hub_download(str(model_id), STATE_NAME, revision=revision, **known)
        except LocalEntryNotFoundError:
            if not (is_offline_mode() or known.get("local_files_only")):
                raise  # it may well be there
    return Path(found).parent


def _looks_like_a_path(model_id: str) -> bool:
    """A Hub id is `name` or `owner/name`; everything else can only be a path."""
    return model_id.startswith((".", "/", "~")) or model_id.count("/") > 1 or model_id.endswith(".gguf")
