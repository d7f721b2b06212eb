"""Types for evaluators (entry points asi_arch.evaluators): a reader of a trained model, and a score."""

from services.engineer.evaluation.benchmarks import Evaluator
from services.engineer.evaluation.reader import Predictions, Reader
from services.engineer.training.result import TaskScore

__all__ = ["Evaluator", "Predictions", "Reader", "TaskScore"]
