"""What a corpus and a run ARE: frozen strict models. The only room that reads YAML; it imports nothing heavy."""

from emod.catalog.ablation import AblationSettings
from emod.catalog.corpus import CleaningStage, CorpusCatalog, EmotionWord, Missing, RatingScale
from emod.catalog.embed import EmbedSettings
from emod.catalog.evaluate import EvaluateSettings
from emod.catalog.experiment import (
    Addresses,
    Experiment,
    FinetuneSettings,
    IngestSettings,
    MethodName,
    PretrainSettings,
    SimulateSettings,
    TargetName,
    with_values,
)
from emod.catalog.load import (
    catalog_root,
    corpus_names,
    dump_yaml,
    experiment_names,
    fingerprint,
    load_corpus,
    load_emotion_words,
    load_experiment,
    load_paper,
    load_simulation,
    with_overrides,
)
from emod.catalog.model import EmodConfig
from emod.catalog.paper import PaperScores, PrintedScores
from emod.catalog.promote import PromoteSettings
from emod.catalog.serving import ServingSettings
from emod.catalog.signal import IcaSettings, SignalSettings
from emod.catalog.simulation import SimulationSettings
from emod.catalog.split import SplitSettings
from emod.catalog.study import StudySettings
from emod.catalog.sweep import Dimension, SweepSettings

__all__ = [
    "AblationSettings",
    "Addresses",
    "CleaningStage",
    "CorpusCatalog",
    "Dimension",
    "EmbedSettings",
    "EmodConfig",
    "EmotionWord",
    "EvaluateSettings",
    "Experiment",
    "FinetuneSettings",
    "IcaSettings",
    "IngestSettings",
    "MethodName",
    "Missing",
    "PaperScores",
    "PretrainSettings",
    "PrintedScores",
    "PromoteSettings",
    "RatingScale",
    "ServingSettings",
    "SignalSettings",
    "SimulateSettings",
    "SimulationSettings",
    "SplitSettings",
    "StudySettings",
    "SweepSettings",
    "TargetName",
    "catalog_root",
    "corpus_names",
    "dump_yaml",
    "experiment_names",
    "fingerprint",
    "load_corpus",
    "load_emotion_words",
    "load_experiment",
    "load_paper",
    "load_simulation",
    "with_overrides",
    "with_values",
]
