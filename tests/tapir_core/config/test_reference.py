"""docs/configuration.md is what the models say."""

from pathlib import Path

from tapir_core.config.reference import describe, render_reference

DOCUMENT = Path(__file__).parents[3] / "docs" / "configuration.md"


def test_the_document_is_what_the_models_say() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == render_reference(), (
        "run: python -m tapir_core.config.reference > docs/configuration.md"
    )


def test_every_field_is_documented_under_itself() -> None:
    undocumented = [
        f"{table.path}.{name}"
        for table in describe().tables()
        for name, field in table.fields.items()
        if not field.get("description")
    ]
    assert undocumented == []


def test_every_table_has_its_heading_and_every_field_its_line() -> None:
    text = render_reference()
    for table in describe().tables():
        assert f"# `[{table.path}]`" in text
        assert all(f"- **`{name}`** — " in text for name in table.fields)


def test_a_section_used_twice_is_written_once_with_its_other_defaults() -> None:
    text = render_reference()
    assert text.count("- **`top_p`**") == 1
    assert "The fields of `[student.sampling]`, with other defaults: `max_tokens` `256`." in text
