"""What the numbers of an audit are called and mean, in a line each, on every surface that shows them."""

ROLES = {"base": "before", "edited": "after", "gold": "retrained"}
"""The models of an audit as a reader knows them: before the edit, after it, and retrained without the target."""

MEASURES = {
    "exact_match": ("Right word for word", "share of records whose generated answer is the true one"),
    "rouge_l": ("ROUGE-L", "how many of the true answer's words come in its order, 0 to 1"),
    "choice": ("Multiple choice", "share of questions with options whose right option is the likeliest"),
    "cloze": ("Cloze", "share of questions with a blank whose right option is the likeliest"),
    "token_accuracy": ("Tokens right", "share of the true answer's tokens that are the likeliest"),
    "factuality": ("Factuality", "a judge's mark, 0 to 10"),
    "total": ("MedForget's total", "0.25 · ROUGE-L + 0.75 · factuality ÷ 10"),
    "loss": ("Answer loss", "surprise at the true answer, nats a token; higher is less known"),
}
"""By measure: its name and its meaning, in the order in which they are shown."""

METRICS = {
    "forgetting_rate": ("forgetting rate (FR)", "the target's answers that are not right"),
    "chance_corrected_forgetting": ("corrected for guessing", "1: right as often as a guess among the options"),
    "knowledge_preservation": ("preservation (KPR)", "right answers of retained records, after ÷ before"),
    "mia_resistance": ("MIA resistance", "1: losses do not tell the target's answers from {}"),
    "hmta": ("HMTA", "mean over concept levels: tokens kept (1 to 3), forgotten (4)"),
    "invalid_target": ("invalid, target", "answers that are none of the options, or empty"),
    "invalid_retained": ("invalid, retained", "the same of the retained records"),
}
"""By metric of DuoLearn's paper: its name and its meaning, which may name the non-members."""

NONMEMBERS = {
    "counterfactuals": "those of others (--nonmembers is the fairer test)",
    "strangers": "those of records that were never learnt",
}

SCALES = {
    "share": "share of the target that comes back: 0 is nothing",
    "area": "area under the curve: 0.5 tells nothing, both sides of it leak",
    "trace": "how well the target is told from others, which only the retrained model puts in proportion",
    "caution": "for whoever has more than the release, or there by chance: watch at most",
    "release": "what stands in the release for everybody to read",
}

MEANS = {
    "rephrasing": "asking in other words",
    "image": "altering images",
    "membership": "comparing how likely answers are",
    "reconstruction": "telling what stands around it",
    "prefill": "giving the beginning of an answer",
    "relearning": "training a little further",
    "quantisation": "rounding the weights",
    "inspection": "looking inside",
}
"""By attack, what it does, in words that need no machine learning."""
