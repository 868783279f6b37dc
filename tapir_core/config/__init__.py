"""Configuration: closed, frozen models; TOML in, resolved JSON out."""

from tapir_core.config._base import (
    DIFFERENT,
    Free,
    Kind,
    Later,
    Section,
    by_kind,
    check_web_address,
    environment_name,
    matching,
    problems,
)
from tapir_core.config.benchmarks import HELDOUT, AskedBenchmark, BenchmarkConfig
from tapir_core.config.curriculum import (
    ExpansionConfig,
    HardShare,
    Imitate,
    Objective,
    OnPolicy,
    PassRate,
    Prefer,
    RandomShare,
    RoundConfig,
    SelectionRule,
    StopConfig,
    TargetShares,
    Threshold,
)
from tapir_core.config.data import (
    ACCURACY,
    LENGTHS,
    NATURAL,
    RETENTION,
    SAME_CALLS,
    WIN_RATE,
    DataConfig,
    FileHeldout,
    FilePool,
    HeldoutConfig,
    JudgedHeldout,
    PoolConfig,
    StandinHeldout,
    StandinPool,
)
from tapir_core.config.roles import (
    ASKED_AS,
    SHIPPED,
    STANDIN_VERSION,
    BatchConfig,
    EndpointConfig,
    JudgeConfig,
    ModelIdentity,
    OpenAIEndpoint,
    Order,
    PanelRule,
    ReplyForm,
    Role,
    Sampling,
    StandinEndpoint,
    VerifierConfig,
    VerifierUse,
)
from tapir_core.config.run import BudgetConfig, CallsConfig, Caps, LoraConfig, RunConfig, TrainingConfig
from tapir_core.config.student import (
    EMBEDDED_STUDENT,
    SERVED_NAME,
    StudentConfig,
    StudentEngine,
    VllmEndpoint,
    VllmEngine,
)
