"""What TRIPOD+AI and CLAIM ask a study to report, in short, and which facts of a run answer it.

Collins et al., BMJ 2024;385:e078378 (TRIPOD+AI); Tejani et al., Radiology: Artificial Intelligence 2024;6:e240300
(CLAIM 2024). The words are ours: who reports a study reads the items themselves.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Item:
    """One item of a checklist.

    Attributes:
        number: as the checklist has it.
        topic: what it asks for.
        facts: names of `reporting.facts` that answer it, or a part of it.
        write: what only the authors know; empty where the run knows all.
    """

    number: str
    topic: str
    facts: tuple[str, ...] = ()
    write: str = ""


TRIPOD_AI: dict[str, tuple[Item, ...]] = {
    "Title and abstract": (
        Item("1", "Title", ("title",), "whom the model is for, and what it is to predict"),
        Item("2", "Abstract", (), "the abstract, by TRIPOD+AI's own list for abstracts"),
    ),
    "Introduction": (
        Item("3a", "Why a model", (), "the care in which it would be used, and which models there are already"),
        Item("3b", "Population and purpose", (), "for whom it is, who would use it, and at which point of care"),
        Item("3c", "Known inequalities", (), "how groups of patients differ in health and in access to this care"),
        Item("4", "Objectives", ("aim",), "what the study was to show, as it was fixed before"),
    ),
    "Methods": (
        Item("5a", "Sources of the data", ("data", "partition"), "why these data, and whom they represent"),
        Item("5b", "Dates", (), "from when to when the images were taken"),
        Item("6a", "Setting", (), "which and how many hospitals, in which countries"),
        Item("6b", "Who was eligible", ("excluded",), "by which criteria patients and images were chosen"),
        Item("6c", "Treatments", (), "which treatments show in the images, such as drains, and what was done about it"),
        Item("7", "Preparation of the data", ("preparation", "checks"), ""),
        Item("8a", "Outcome", ("labels",), "how each label was decided, when, and whether alike for all patients"),
        Item(
            "8b", "Who judged the outcome", (), "how many readers, of which training; or which program read the reports"
        ),
        Item("8c", "Blinding of the outcome", (), "what those who judged knew of other findings and of the model"),
        Item("9a", "Choice of predictors", ("predictors",), ""),
        Item(
            "9b",
            "Definition of predictors",
            ("preparation",),
            "devices, views and protocols by which images were taken",
        ),
        Item("9c", "Who judged predictors", ("predictors",), ""),
        Item(
            "10", "Sample size", ("sample",), "how the numbers of patients were decided, for training and for the test"
        ),
        Item("11", "Missing data", ("missing",), "why data are missing"),
        Item("12a", "How the data were used", ("partition",), ""),
        Item("12b", "Handling of predictors", ("preparation",), ""),
        Item(
            "12c",
            "Type and building of the model",
            ("models", "choice"),
            "what else was tried before, and on which data",
        ),
        Item(
            "12d", "Differences between clusters", ("clusters",), "differences between hospitals, if there are several"
        ),
        Item("12e", "Measures of performance", ("measures",), ""),
        Item("12f", "Updating after evaluation", ("updating",), ""),
        Item("12g", "How predictions were made", ("predictions",), ""),
        Item("13", "Class imbalance", ("imbalance",), ""),
        Item("14", "Fairness", ("fairness",), "which groups matter here, and why"),
        Item("15", "Output and thresholds", ("output",), "what a user does at which threshold"),
        Item("16", "Training against evaluation", ("partition",), "how patients, care and labels of the two differ"),
        Item("17", "Ethics", (), "who approved the study, and how consent was given or waived"),
    ),
    "Open science": (
        Item("18a", "Funding", (), "who paid, and what part they had"),
        Item("18b", "Conflicts of interest", (), "those of all authors"),
        Item("18c", "Protocol", (), "where the protocol is, or that there is none"),
        Item("18d", "Registration", (), "where the study is registered, or that it is not"),
        Item("18e", "Data", ("licences",), "where the data can be had"),
        Item("18f", "Code", ("code",), "where the code can be had"),
    ),
    "Patients and the public": (
        Item("19", "Involvement", (), "how patients and the public took part, or that none did"),
    ),
    "Results": (
        Item("20a", "Flow of participants", ("excluded", "data"), "the follow-up, where there is one"),
        Item("20b", "Characteristics", ("participants",), "further characteristics of the patients"),
        Item("20c", "Evaluation against development", ("prevalence",), ""),
        Item("21", "Numbers in each analysis", ("prevalence",), ""),
        Item("22", "The full model", ("files", "licences"), ""),
        Item("23a", "Performance", ("performance", "differences", "subgroups"), ""),
        Item("23b", "Performance between clusters", ("clusters",), "performance by hospital, if there are several"),
        Item("24", "Results of updating", ("updating",), ""),
    ),
    "Discussion": (
        Item("25", "Interpretation", ("verdict",), "what the results mean beside other studies, and for fairness"),
        Item("26", "Limitations", ("limits",), "further limitations, and which way they bias the results"),
        Item("27a", "Bad or missing input", ("refusals",), "what a user does with an image that is refused or bad"),
        Item("27b", "Users", (), "what users must do and know"),
        Item("27c", "Next steps", (), "what must be studied next, above all on other hospitals' images"),
    ),
}
"""The 27 items and their parts, by section."""


CLAIM: dict[str, tuple[Item, ...]] = {
    "Title and abstract": (
        Item("1", "The kind of AI in the title", ("title",), ""),
        Item("2", "Summary", (), "a structured summary of design, methods, results and conclusions"),
    ),
    "Introduction": (
        Item("3", "Background and role", (), "the clinical background, and the part that the model is to play"),
        Item("4", "Aims and hypotheses", ("aim",), "the hypotheses, as they were fixed before"),
    ),
    "Methods: design and data": (
        Item("5", "Prospective or retrospective", ("retrospective",), ""),
        Item("6", "Goal", ("aim",), ""),
        Item(
            "7", "Sources of the data", ("data", "licences"), "where the data come from, and how others have used them"
        ),
        Item("8", "Inclusion and exclusion", ("excluded",), "by which criteria the images were collected"),
        Item("9", "Preprocessing", ("preparation",), ""),
        Item("10", "Selection of parts of images", ("parts",), ""),
        Item("11", "De-identification", (), "how names were removed from images and tables"),
        Item("12", "Missing data", ("missing",), ""),
        Item("13", "Acquisition of images", (), "devices and protocols"),
    ),
    "Methods: reference standard": (
        Item("14", "How the truth was found", ("labels",), "how each label was decided"),
        Item("15", "Why this way", (), "why it is good enough for the purpose, and where it errs"),
        Item("16", "Who annotated", (), "how many people, of which training"),
        Item(
            "17",
            "Annotation of the test images",
            (),
            "whether the test images were read more carefully than the others",
        ),
        Item("18", "Agreement of annotators", (), "agreement within and between annotators"),
    ),
    "Methods: partitions": (
        Item("19", "Assignment to partitions", ("partition",), ""),
        Item("20", "Level at which they are disjoint", ("disjoint",), ""),
        Item("21", "Intended sample size", ("sample",), "the intended size, and the difference that it was to show"),
    ),
    "Methods: model and training": (
        Item("22", "The model", ("models",), ""),
        Item("23", "Software", ("code",), ""),
        Item("24", "Initial weights", ("initial",), ""),
        Item("25", "Training", ("training",), ""),
        Item("26", "Choice of the final model", ("choice",), ""),
        Item("27", "Ensembles", ("ensembles",), ""),
    ),
    "Methods: evaluation": (
        Item("28", "Metrics", ("measures",), "which of them is the primary one, as it was fixed before"),
        Item("29", "Uncertainty and significance", ("uncertainty",), ""),
        Item("30", "Robustness", ("robustness",), "how the model does on worse images and under other assumptions"),
        Item("31", "Explanations", ("explanations",), ""),
        Item("32", "Internal data", ("performance",), ""),
        Item("33", "External data", ("external",), "the results on data of other hospitals, or why there are none"),
        Item("34", "Registration", (), "where the study is registered, or that it is not"),
    ),
    "Results": (
        Item("35", "Included and excluded", ("excluded", "data"), ""),
        Item("36", "Characteristics by partition", ("prevalence", "participants"), "further characteristics"),
        Item("37", "Performance and its uncertainty", ("performance", "differences"), ""),
        Item("38", "Sensitivity, specificity and their precision", ("thresholds",), ""),
        Item("39", "Failures", ("failures",), "what readers say of the images on which the model fails"),
    ),
    "Discussion and other information": (
        Item("40", "Limitations", ("limits",), "further limitations"),
        Item("41", "Implications", (), "what follows for practice, if anything does"),
        Item("42", "Protocol or further details", ("files",), "where the protocol is"),
        Item("43", "Availability", ("files", "licences"), "where software, models and data can be had"),
        Item("44", "Funding", (), "who paid, and what part they had"),
    ),
}
"""The 44 items, by section."""
