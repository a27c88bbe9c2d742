"""Options of the benchmark, and the orders that its worker processes get."""

from __future__ import annotations

from dataclasses import dataclass, field

from hf_dlc.config import DLCConfig
from hf_dlc.pipeline.options import Options


PARTS = ("contenders", "padding", "run", "scale", "many", "processes", "selection", "selectors")
SCALE = 8  # the many rows of the part "scale" are this many times the few
MANY = 10  # those of the part "many" likewise


@dataclass
class BenchmarkArguments(Options):
    """Benchmark options: what to measure, on which rows and with which model."""

    dataset: str = field(default="demo", metadata={"help": "What prune_alpaca.py reads as --dataset."})
    model: str = field(default="demo", metadata={"help": "Hub repository, folder, .gguf file, or 'demo'."})
    dtype: str = field(default="auto", metadata={"help": "Dtype measured beside float32; 'auto' is hf_dlc's own."})
    template: str = field(default="auto", metadata={"help": "hf_dlc's option: 'auto', 'chat', 'alpaca' or a path."})
    schedule: str = field(default="0, 0.05", metadata={"help": "Masked fractions, smallest magnitudes first."})
    rows: int = field(default=60, metadata={"help": "Rows of the contenders: the first with one target span."})
    rounds: int = field(default=3, metadata={"help": "How often each contender has its turn."})
    num_threads: int | None = field(default=None, metadata={"help": "CPU threads; default: all cores."})
    parts: str = field(default=",".join(PARTS), metadata={"help": "What is measured."})
    scale_dataset: str | None = field(default=None, metadata={"help": "Many rows, for 'scale'."})
    scale_rows: int = field(default=8000, metadata={"help": "Rows of 'scale'; an eighth of them are the few."})
    many_rows: int = field(
        default=1_000_000, metadata={"help": "Rows of 'many', for a tiny model; a tenth of them are the few."}
    )
    run_rows: int = field(default=1000, metadata={"help": "Rows of 'run', repeated if there are fewer."})
    process_rows: int = field(default=200, metadata={"help": "Rows of 'processes', repeated if there are fewer."})
    selection_rows: int = field(default=10_000_000, metadata={"help": "Scores of 'selection'."})
    selector_rows: int = field(default=1_000_000, metadata={"help": "Rows of 'selectors', with a vector each."})
    vector_size: int = field(default=512, metadata={"help": "Numbers in a vector of 'selectors'."})
    output_dir: str = field(default="runs/benchmark", metadata={"help": "Folder for the results."})
    overwrite: bool = field(default=False, metadata={"help": "Replace results that are there."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if unknown := set(self.chosen_parts) - set(PARTS):
            raise ValueError(f"parts must be among {', '.join(PARTS)}, got {', '.join(sorted(unknown))}.")
        if self.many_rows < MANY:
            raise ValueError(f"many_rows must be at least {MANY}, got {self.many_rows}.")
        for name in ("rows", "rounds", "run_rows", "process_rows", "selection_rows", "selector_rows", "vector_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.scale_rows < SCALE:
            raise ValueError(f"scale_rows must be at least {SCALE}, got {self.scale_rows}.")
        DLCConfig(schedule=self.schedule, dtype=self.dtype)  # says what is wrong with them

    @property
    def chosen_parts(self) -> list[str]:
        """The parts, in the order in which they are measured."""
        names = {name.strip() for name in self.parts.split(",")}
        return [name for name in PARTS if name in names] + sorted(names - set(PARTS))


@dataclass
class Job:
    """Orders of a worker process, which it gets as JSON."""

    model: str = ""
    dtype: str = "float32"
    rows: str = ""  # folder of a saved dataset
    template: str = "auto"
    schedule: str = "0, 0.05"
    masking: str = "magnitude"
    num_threads: int = 1
    rounds: int = 1
    selection_rows: int = 0
    selector: str = ""
    vectors: str = ""  # file of features
    run_dir: str = ""  # of the journal
    converted: dict[str, str] = field(default_factory=dict)  # from a dtype to the folder to write

    @property
    def fractions(self) -> tuple[float, ...]:
        """Masked fraction of each level."""
        return DLCConfig(schedule=self.schedule).mask_schedule.fractions
