"""Copy the committed records into the built site, so that relative links to ``../results`` work there, too."""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel

RESULTS = Path(__file__).parents[1] / "results"


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add each record file under the path that Markdown pages link to."""
    for path in sorted(RESULTS.rglob("*.jsonl")):
        name = path.relative_to(RESULTS).as_posix()
        record = File.generated(config, f"../results/{name}", abs_src_path=str(path))
        record.dest_uri = f"records/{name}"
        record.inclusion = InclusionLevel.INCLUDED  # paths that start with a dot are left out by default
        files.append(record)
    return files
