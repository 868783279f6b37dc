"""Data Designer's side of `calls.py`, used as its documentation says for an OpenAI-compatible endpoint."""

import os

os.environ["NEMO_TELEMETRY_ENABLED"] = "false"

import data_designer.config as dd  # reads the variable above when it is imported
import pandas as pd
from calls_child import API_KEY, MAX_TOKENS, MODEL, Job, serve
from data_designer.interface import DataDesigner


def ask_data_designer(job: Job, prompts: list[str]) -> list[str]:
    parameters = dd.ChatCompletionInferenceParams(max_tokens=MAX_TOKENS, max_parallel_requests=job.concurrency)
    model = dd.ModelConfig(alias="judge", model=MODEL, provider="bench", inference_parameters=parameters)
    builder = dd.DataDesignerConfigBuilder(model_configs=[model])
    builder.with_seed_dataset(dd.DataFrameSeedSource(df=pd.DataFrame({"instruction": prompts})))
    builder.add_column(dd.LLMTextColumnConfig(name="answer", model_alias="judge", prompt="{{ instruction }}"))
    provider = dd.ModelProvider(name="bench", endpoint=job.base_url, api_key=API_KEY)
    designer = DataDesigner(artifact_path=job.folder, model_providers=[provider])
    # Its metrics endpoint would only cost it time.
    designer.set_run_config(dd.RunConfig(otel_metrics_port=None))
    return list(designer.create(builder, num_records=job.rows).load_dataset()["answer"])


if __name__ == "__main__":
    serve(ask_data_designer, "data-designer")
