"""What a folder or repository holds in place of a whole model with plain weights, and a sentence for each."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import ADAPTER_CONFIG_NAME, CONFIG_NAME


logger = logging.getLogger(__name__)

_SHOWN = 3  # names in a message

# Methods whose weights transformers can make plain floats of on loading, and the class that asks for it.
_DEQUANTISED_BY = {
    "compressed-tensors": "CompressedTensorsConfig",
    "fp8": "FineGrainedFP8Config",
    "mxfp4": "Mxfp4Config",
    "mxfp8": "FineGrainedFP8Config",
}

_PACKED_KEY = re.compile(
    r"q_?weight|q_?zeros|packed|absmax|codebook|quant|\.scales?$|\.biases$|scale_inv$|W_q$", re.IGNORECASE
)
_ADAPTER_KEY = re.compile(r"\.(lora_\w+|base_layer|modules_to_save)\.")
_OTHER_HEAD_KEY = re.compile(
    r"(^|\.)(score|classifier|classification_head|qa_outputs|reward_head|value_head|v_head|rm_head)\."
)
_OTHER_HEAD = re.compile(r"For(SequenceClassification|TokenClassification|QuestionAnswering|MultipleChoice)|Reward")
_WRAPPED_KEY = re.compile(r"^(module|_orig_mod|base_model)\.")


def check_folder(folder: Path) -> None:
    """
    Refuse a local folder that holds something else than a model.

    Args:
        folder (`Path`):
            Folder that is there.

    Raises:
        ValueError: For a file, an adapter, a pipeline of several models, a tokenizer alone, and the like.
    """
    if folder.is_file():
        raise ValueError(f"a model must be a folder with a {CONFIG_NAME} or a .gguf file, got the file {folder}.")
    if (folder / ADAPTER_CONFIG_NAME).is_file():
        raise ValueError(_adapter_message(str(folder), folder / ADAPTER_CONFIG_NAME))
    if (folder / CONFIG_NAME).is_file():
        return
    names = sorted(path.name for path in folder.iterdir())
    raise ValueError(f"{folder} holds no {CONFIG_NAME}, so it is no model. {_advice(folder, names)}")


def _advice(folder: Path, names: Sequence[str]) -> str:
    if "model_index.json" in names:
        return "It is a pipeline of diffusers, which is made of several models; DLC needs one that classifies."
    if files := [name for name in names if name.endswith(".gguf")]:
        return f"Pass the path of a file in it: {_listed(files)}."
    if parts := [name for name in names if (folder / name / CONFIG_NAME).is_file()]:
        return f"Pass the path of a model in it: {_listed(parts)}."
    if "tokenizer_config.json" in names and not any(name.endswith((".safetensors", ".bin")) for name in names):
        return "It is a tokenizer alone. Save the model beside it: model.save_pretrained(folder)."
    return f"It holds {_listed(names) or 'nothing'}. Pass a folder that model.save_pretrained wrote."


def _adapter_message(name: str, config_file: str | Path) -> str:
    try:
        base = json.loads(Path(config_file).read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (LookupError, TypeError, ValueError):  # whatever else the file holds, its name is that of an adapter's
        base = None
    of = f" for {base}" if base else ""
    return (
        f"{name} is a PEFT adapter{of}, not a whole model. Merge it and save the result: "
        "AutoPeftModelForCausalLM.from_pretrained(...).merge_and_unload().save_pretrained(folder). Or pass the base "
        "model."
    )


def check_adapter(model_id: str, shared: Mapping[str, Any]) -> None:
    """
    Refuse a repository that holds an adapter, once it has turned out that it has no model.

    Args:
        model_id (`str`):
            Repository on the Hub.
        shared (`Mapping[str, Any]`):
            How its files are fetched.

    Raises:
        ValueError: If there is an adapter.
    """
    from transformers.utils.peft_utils import find_adapter_config_file

    known = ("cache_dir", "local_files_only", "revision", "subfolder", "token")
    try:
        found = find_adapter_config_file(
            model_id, **{key: shared[key] for key in known if shared.get(key) is not None}
        )
    except OSError:  # it cannot be looked at: the first error says why
        return
    if found is not None:
        raise ValueError(_adapter_message(model_id, found))


def check_quantisation(config: PreTrainedConfig, model_kwargs: Mapping[str, Any], name: str) -> None:
    """
    Refuse, before anything is loaded, weights that would be packed.

    Args:
        config ([`~transformers.PreTrainedConfig`]):
            Configuration of the checkpoint.
        model_kwargs (`Mapping[str, Any]`):
            Arguments of `from_pretrained`, in which a `quantization_config` may ask for plain floats.
        name (`str`):
            Name of the checkpoint.

    Raises:
        ValueError: If the weights are quantised, or would be on loading.
    """
    for option in ("load_in_4bit", "load_in_8bit"):
        if model_kwargs.get(option):
            raise ValueError(
                f"model_kwargs must not ask for packed weights, got {option}: they cannot be masked. Leave it out."
            )
    asked = model_kwargs.get("quantization_config")
    if asked is not None:
        if not _option(asked, "dequantize"):
            raise ValueError(
                f"model_kwargs must not ask for packed weights, got a quantization_config ({_method(asked)}): they "
                "cannot be masked. Leave it out."
            )
        return
    found = getattr(config, "quantization_config", None) or getattr(config, "compression_config", None)
    found = found or getattr(config, "quantization", None)  # MLX
    if not found or _option(found, "dequantize"):
        return
    by = _DEQUANTISED_BY.get(_method(found))
    otherwise = f", or pass model_kwargs={{'quantization_config': {by}(dequantize=True)}}" if by else ""
    raise ValueError(
        f"the checkpoint {name!r} is quantised ({_method(found)}), and packed weights cannot be masked. Load the "
        f"unquantised model that it was made from{otherwise}."
    )


def _option(options: Any, name: str) -> Any:
    return options.get(name) if isinstance(options, Mapping) else getattr(options, name, None)


def _method(options: Any) -> str:
    """Name of a method of quantisation."""
    method = _option(options, "quant_method")
    return str(getattr(method, "value", method) or "an unnamed method").lower()


def check_weights(
    model: PreTrainedModel, info: Mapping[str, Any], config: PreTrainedConfig, name: str, uses_all: bool = True
) -> None:
    """
    Refuse a model of which the checkpoint held only a part, and name what of the checkpoint was left out.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Loaded model.
        info (`Mapping[str, Any]`):
            What transformers says of the loading.
        config ([`~transformers.PreTrainedConfig`]):
            Configuration of the checkpoint.
        name (`str`):
            Name of the checkpoint.
        uses_all (`bool`, *optional*, defaults to `True`):
            Whether tensors that are left out are worth a warning.

    Raises:
        ValueError: If weights would be random, or if the checkpoint is of a model with another head.
    """
    missing, others = missing_weights(model, info), sorted(info["mismatched_keys"])
    unexpected = sorted(info["unexpected_keys"])
    lacks = []
    if missing:
        lacks.append(f"lacks {len(missing)} of the weights of {type(model).__name__}, such as {_listed(missing)}")
    if others:
        shown = [f"{key} ({tuple(got)} in place of {tuple(wanted)})" for key, got, wanted in others]
        lacks.append(f"has {len(others)} of another shape than {type(model).__name__}, such as {_listed(shown)}")
    kind = _kind(missing, unexpected, config.architectures or [])
    if lacks:
        raise ValueError(f"the checkpoint {name!r} {' and '.join(lacks)}: they would be random. {kind}")
    if _is_of_another_head(model, unexpected, config.architectures or []):
        raise ValueError(f"the checkpoint {name!r} is of another model than {type(model).__name__}. {kind}")
    if unexpected:
        level = logging.WARNING if uses_all else logging.INFO
        message = "%d tensors of the checkpoint %s have no place in %s and are left out, such as %s"
        logger.log(level, message, len(unexpected), name, type(model).__name__, _listed(unexpected))


def missing_weights(model: PreTrainedModel, info: Mapping[str, Any]) -> list[str]:
    """
    Names of the weights that the checkpoint lacks, without what is computed from the configuration alone.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Loaded model.
        info (`Mapping[str, Any]`):
            What transformers says of the loading.

    Returns:
        `list[str]`: Names, sorted.
    """
    computed = {key for key, buffer in model.named_buffers() if not buffer.is_floating_point() or "inv_freq" in key}
    return sorted(set(info["missing_keys"]) - computed)


def _is_of_another_head(model: PreTrainedModel, unexpected: Sequence[str], architectures: Sequence[str]) -> bool:
    """Nothing is missing where the language modelling head is the embedding: that says nothing of a reward model."""
    if type(model).__name__ in architectures or not any(map(_OTHER_HEAD_KEY.search, unexpected)):
        return False
    return any(map(_OTHER_HEAD.search, architectures)) and model.get_output_embeddings() is not None


def _kind(missing: Sequence[str], unexpected: Sequence[str], architectures: Sequence[str]) -> str:
    """What a checkpoint seems to be, and what to do."""
    has, also = f"It has {_listed(unexpected)}", f", and it has {_listed(unexpected)}" if unexpected else ""
    made = f"Its config names {_listed(architectures)}" if architectures else "Its config names no architecture"
    if any(map(_ADAPTER_KEY.search, unexpected)):
        return f"{has}: it looks like a model with adapters in it. Save it after `model.merge_and_unload()`."
    if any(map(_WRAPPED_KEY.search, unexpected)):
        return f"{has}: it looks like the state of a wrapped model. Save what was wrapped, by its save_pretrained."
    if any(map(_PACKED_KEY.search, unexpected)):
        return f"{has}: it looks quantised. Load the unquantised model that it was made from."
    if any(map(_OTHER_HEAD_KEY.search, unexpected)) or any(map(_OTHER_HEAD.search, architectures)):
        return (
            f"{made}{also}: it looks like a classification or reward model. Load the language model that it was made "
            "from."
        )
    if missing and all("head" in key or "output" in key or "decoder" in key for key in missing):
        return (
            f"{made}: it looks like a body without its output head. Load the whole model, or, if its head is the "
            "embedding, set tie_word_embeddings to true in its config.json."
        )
    return (
        f"{made}{f'; it has {_listed(unexpected)}' if unexpected else ''}. Save the whole model, or load another one."
    )


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
