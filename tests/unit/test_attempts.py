"""The tables of attempts on validation in docs/results.md are what is kept."""

from dataclasses import asdict

from benchmarks import attempts, built_in


def test_the_published_attempts_are_those_that_are_kept(root):
    text = (root / "docs" / "results.md").read_text()
    published = text.partition("<!-- attempts: begin -->\n")[2].partition("\n<!-- attempts: end -->")[0]
    assert published == attempts.table(attempts.read_rows())


def test_the_published_variants_of_the_built_in_run_are_those_that_are_kept(root):
    text = (root / "docs" / "results.md").read_text()
    published = text.partition("<!-- built_in: begin -->\n")[2].partition("\n<!-- built_in: end -->")[0]
    known = built_in.known()
    kept = [known[key] for variant in built_in.VARIANTS if (key := built_in.key_of(asdict(variant))) in known]
    assert len(kept) == len(known)
    assert published == built_in.table(kept)
