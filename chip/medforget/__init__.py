"""MedForget, the hierarchy-aware unlearning benchmark (Wu et al., arXiv 2512.09867), built from a hospital's export.

Institution, patient, study, section: what an export holds becomes records at all four levels, forget and retain sets
for each, and a table of what every method made of them. docs/medforget.md says which part of it is the paper's.
"""
