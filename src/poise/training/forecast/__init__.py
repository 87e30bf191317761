"""What a run would do, take and cost: ``plan`` resolves a recipe without its weights and without writing anything."""

from poise.training.forecast.data import Known
from poise.training.forecast.estimate import Assumed, Memory
from poise.training.forecast.plan import Plan, StagePlan, plan
from poise.training.forecast.shape import Activations, Shape

__all__ = ["Activations", "Assumed", "Known", "Memory", "Plan", "Shape", "StagePlan", "plan"]
