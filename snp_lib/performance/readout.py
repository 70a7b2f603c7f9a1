from dataclasses import dataclass
@dataclass(frozen=True, kw_only=True)
class ReadoutRecipe:
    epochs: int
    batch_size: int
    lr: float = 2e-3
    weight_decay: float = 1e-4
