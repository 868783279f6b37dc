"""Configuration: closed, frozen models, a file a section; TOML in, resolved JSON out."""

from tapir_core.config._base import Section
from tapir_core.config.asked_benchmarks import AskedBenchmark, JudgedBenchmark, RunBaseline
from tapir_core.config.benchmarks import (
    AlpacaEvalBenchmark,
    BenchmarkConfig,
    FastChatBenchmark,
    LmEvalBenchmark,
    MTBenchBenchmark,
    QuestionsOnly,
    VicunaBenchmark,
    benchmark_files,
)
from tapir_core.config.budget import BudgetConfig, Caps
from tapir_core.config.calls import CallsConfig
from tapir_core.config.curriculum import (
    CurriculumConfig,
    ExpansionConfig,
    HardShare,
    RandomShare,
    RoundConfig,
    Selection,
    StopConfig,
    TargetShares,
    Threshold,
)
from tapir_core.config.data import DataConfig, FileHeldout, FilePool, StandinHeldout, StandinPool
from tapir_core.config.endpoints import BatchConfig, EndpointConfig, OpenAIEndpoint, Sampling, StandinEndpoint
from tapir_core.config.evaluation import HELDOUT, DecontaminationConfig, EvaluationConfig
from tapir_core.config.roles import JudgeConfig, Order, PanelRule, TeacherConfig
from tapir_core.config.run import RunConfig, RunSection
from tapir_core.config.student import (
    EMBEDDED_STUDENT,
    SERVED_NAME,
    EndpointEngine,
    ReplicasEngine,
    StudentConfig,
    StudentEngine,
    VllmEngine,
)
from tapir_core.config.training import BasicTuningConfig, LoraConfig, TrainingConfig

__all__ = [
    "EMBEDDED_STUDENT",
    "HELDOUT",
    "SERVED_NAME",
    "AlpacaEvalBenchmark",
    "AskedBenchmark",
    "BasicTuningConfig",
    "BatchConfig",
    "BenchmarkConfig",
    "BudgetConfig",
    "CallsConfig",
    "Caps",
    "CurriculumConfig",
    "DataConfig",
    "DecontaminationConfig",
    "EndpointConfig",
    "EndpointEngine",
    "EvaluationConfig",
    "ExpansionConfig",
    "FastChatBenchmark",
    "FileHeldout",
    "FilePool",
    "HardShare",
    "JudgeConfig",
    "JudgedBenchmark",
    "LmEvalBenchmark",
    "LoraConfig",
    "MTBenchBenchmark",
    "OpenAIEndpoint",
    "Order",
    "PanelRule",
    "QuestionsOnly",
    "RandomShare",
    "ReplicasEngine",
    "RoundConfig",
    "RunBaseline",
    "RunConfig",
    "RunSection",
    "Sampling",
    "Section",
    "Selection",
    "StandinEndpoint",
    "StandinHeldout",
    "StandinPool",
    "StopConfig",
    "StudentConfig",
    "StudentEngine",
    "TargetShares",
    "TeacherConfig",
    "Threshold",
    "TrainingConfig",
    "VicunaBenchmark",
    "VllmEngine",
    "benchmark_files",
]
