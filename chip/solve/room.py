"""Whether a request can be solved at all, before anything runs: that its moments are there, and that it fits."""

from collections.abc import Sequence

from chip.collect import Moments
from chip.collect.budget import in_words
from chip.collect.memory import free_memory
from chip.collect.statistics import accumulator_dtype
from chip.errors import ChipError
from chip.models.sites import Site
from chip.solve.problem import Problem


def refuse_held(problem: Problem, sites: Sequence[Site], tokens: int) -> None:
    """Raise ChipError where the `tokens` of the target's and the held records take more than is free.

    Of d inputs and D outputs: aims (N, D) of all sites, and their weights (D, d) once more, to be put back; of the site
    that is solved, keys three times, (N, d), a moment four times, (d, d), and the change nine times, (D, d), four of
    which are its two factors in 64 bits.
    """
    size = accumulator_dtype(problem.loaded.device).itemsize
    widths = [site.widths(problem.loaded.model) for site in sites]
    aims, kept = tokens * sum(outputs for _, outputs in widths), sum(d * outputs for d, outputs in widths)
    solving = max(3 * tokens * d + 4 * d * d + 9 * d * outputs for d, outputs in widths)
    needed = size * (aims + solving) + problem.loaded.dtype.itemsize * kept
    free = free_memory(problem.loaded.device)
    if needed > free:
        raise ChipError(
            f"{tokens} answer tokens of the target's and the held records at {len(sites)} sites take "
            f"{in_words(needed)}, and {in_words(free)} are free; choose a smaller --held, fewer --layers, or forget "
            "the target part by part"
        )


def refuse_too_large(problem: Problem, sites: Sequence[Site], keys: int) -> None:
    """Raise ChipError where `keys` target keys at these sites take more than is free on the model's device, or where
    the statistics lack a site's second moments.

    Of d inputs and D outputs: keys, solved keys and a basis (T, d), aims and residual (T, D), and the aims of all sites
    at once; a system of the smaller of T and d, three times; and the metric, a moment and its factor (d, d) or a
    sketch's rows. The largest site counts, since one is solved at a time.
    """
    if not sites:
        return
    totals = {**problem.statistics.answer, **problem.statistics.image}
    if lacking := [site.name for site in sites if site.name not in totals]:
        raise ChipError(
            f"the statistics hold no second moments of {lacking[0]}, which --method oblique needs; collect them with "
            "`chip collect`, or leave --statistics out"
        )
    size, model = accumulator_dtype(problem.loaded.device).itemsize, problem.loaded.model
    widths = {site.name: site.widths(model) for site in sites}

    def parts(site: str) -> tuple[int, int, int]:
        inputs, outputs = widths[site]
        total = totals[site]
        metric = 2 * inputs**2 if isinstance(total, Moments) else 6 * total.rows.numel()
        return size * keys * (3 * inputs + 2 * outputs), size * 3 * min(keys, inputs) ** 2, size * metric

    largest = max(widths, key=lambda site: sum(parts(site)))
    of_keys, system, metric = parts(largest)
    of_keys += size * keys * sum(outputs for _, outputs in widths.values())
    needed, free = of_keys + system + metric, free_memory(problem.loaded.device)
    if needed > free:
        inputs, outputs = widths[largest]
        side = min(keys, inputs)
        raise ChipError(
            f"{keys} target keys at {len(sites)} sites of up to {inputs} inputs and {outputs} outputs take "
            f"{in_words(needed)}, and {in_words(free)} are free: keys and aims {in_words(of_keys)}, a system of "
            f"{side} × {side} {in_words(system)}, the metric {in_words(metric)}; choose fewer --layers, sketch the "
            "statistics with a smaller --statistics-memory, or forget the target part by part"
        )
