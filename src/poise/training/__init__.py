"""From a recipe to a trained head or model: what each stage learns from, its steps, and how a run is resumed."""
