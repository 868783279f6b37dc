"""Configuration: closed, frozen models; TOML in, resolved JSON out."""

from tapir_core.config._base import DIFFERENT, Free, Kind, Later, Section, by_kind, listed, matching, problems
from tapir_core.config.benchmarks import (
    HELDOUT,
    AlpacaEvalBenchmark,
    Apart,
    AskedBenchmark,
    BenchmarkConfig,
    DecontaminationConfig,
    FastChatBenchmark,
    File,
    Folder,
    JudgedBenchmark,
    LmEvalBenchmark,
    MarkedBenchmark,
    MTBenchBenchmark,
    OfAnswers,
    OfReplies,
    QuestionsOnly,
    RunBaseline,
    VicunaBenchmark,
)
from tapir_core.config.curriculum import (
    ACCURACY,
    NATURAL,
    RETENTION,
    DataConfig,
    ExpansionConfig,
    FileHeldout,
    FilePool,
    HardShare,
    HeldoutConfig,
    JudgedHeldout,
    PoolConfig,
    RandomShare,
    RoundConfig,
    SelectionRule,
    StandinHeldout,
    StandinPool,
    StopConfig,
    TargetShares,
    Threshold,
)
from tapir_core.config.roles import (
    STANDIN_VERSION,
    BatchConfig,
    EndpointConfig,
    JudgeConfig,
    ModelIdentity,
    OpenAIEndpoint,
    Order,
    PanelRule,
    Sampling,
    StandinEndpoint,
)
from tapir_core.config.run import (
    BudgetConfig,
    CallsConfig,
    Caps,
    LoraConfig,
    RunConfig,
    TrainingConfig,
)
from tapir_core.config.student import (
    EMBEDDED_STUDENT,
    SERVED_NAME,
    EndpointEngine,
    ReplicasEngine,
    StudentConfig,
    StudentEngine,
    VllmEngine,
)
from tapir_core.config.verifier import SHIPPED, VerifierConfig, VerifierUse
