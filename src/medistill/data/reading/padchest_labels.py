"""PadChest's label trees: facts that its adapter reads by.

The names are those that occur in PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv: 193, with the four of `NORMAL`,
`EXCLUDE` and `TOKENS`. Order and parents are those of the data set's own trees (manual_review/trees_code.txt in
auriml/Rx-thorax-automatic-captioning), in which a name may stand in several places. Two findings of the table are in no
tree: `hypoexpansion basal`, put below `hypoexpansion` here, and `lipomatosis`.
"""

NORMAL = "normal"
"""Excludes all labels; not a label itself: such an image has 0 everywhere."""

EXCLUDE = "exclude"
"""Marks an image that the data set's owners would leave out."""

TOKENS = ("unchanged", "suboptimal study")
"""Say something of the report: `unchanged` compares with an earlier image."""

_DIFFERENTIAL = """
pneumonia
  atypical pneumonia
tuberculosis
  tuberculosis sequelae
lung metastasis
lymphangitis carcinomatosa
lepidic adenocarcinoma
pulmonary fibrosis
  post radiotherapy changes
  asbestosis signs
emphysema
COPD signs
heart insufficiency
respiratory distress
pulmonary hypertension
  pulmonary artery hypertension
  pulmonary venous hypertension
pulmonary edema
bone metastasis
"""

_FINDINGS = """
obesity
chronic changes
calcified densities
  calcified granuloma
  calcified adenopathy
    calcified mediastinal adenopathy
  calcified pleural thickening
  calcified pleural plaques
  heart valve calcified
  calcified fibroadenoma
granuloma
  calcified granuloma
end on vessel
adenopathy
  calcified adenopathy
nodule
  multiple nodules
pseudonodule
  nipple shadow
  end on vessel
abscess
cyst
cavitation
fibrotic band
volume loss
hypoexpansion
  hypoexpansion basal
bullas
pneumothorax
  hydropneumothorax
pneumoperitoneo
pneumomediastinum
subcutaneous emphysema
hyperinflated lung
flattened diaphragm
lung vascular paucity
air trapping
bronchiectasis
infiltrates
  interstitial pattern
    ground glass pattern
    reticular interstitial pattern
    reticulonodular interstitial pattern
    miliary opacities
  alveolar pattern
    consolidation
      air bronchogram
    air bronchogram
bronchovascular markings
air fluid level
increased density
atelectasis
  total atelectasis
  lobar atelectasis
  segmental atelectasis
  laminar atelectasis
  round atelectasis
  atelectasis basal
mediastinal shift
azygos lobe
fissure thickening
  minor fissure thickening
  major fissure thickening
  loculated fissural effusion
pleural thickening
  apical pleural thickening
  calcified pleural thickening
pleural plaques
  calcified pleural plaques
pleural effusion
  loculated pleural effusion
  loculated fissural effusion
  hydropneumothorax
  empyema
pleural mass
costophrenic angle blunting
vascular redistribution
  central vascular redistribution
hilar enlargement
  adenopathy
  vascular hilar enlargement
    pulmonary artery enlargement
hilar congestion
cardiomegaly
pericardial effusion
kerley lines
dextrocardia
right sided aortic arch
aortic atheromatosis
aortic elongation
  descendent aortic elongation
  ascendent aortic elongation
  aortic button enlargement
  supra aortic elongation
aortic aneurysm
mediastinal enlargement
  superior mediastinal enlargement
    goiter
    supra aortic elongation
  descendent aortic elongation
  ascendent aortic elongation
  aortic aneurysm
  mediastinal mass
  hiatal hernia
tracheal shift
mass
  mediastinal mass
  breast mass
  pleural mass
  pulmonary mass
  soft tissue mass
esophagic dilatation
azygoesophageal recess shift
lipomatosis
mediastinic lipomatosis
thoracic cage deformation
  scoliosis
  kyphosis
  pectum excavatum
  pectum carinatum
  cervical rib
vertebral degenerative changes
  vertebral compression
    vertebral anterior compression
lytic bone lesion
sclerotic bone lesion
  blastic bone lesion
costochondral junction hypertrophy
sternoclavicular junction hypertrophy
axial hyperostosis
osteopenia
osteoporosis
non axial articular degenerative changes
subacromial space narrowing
fracture
  clavicle fracture
  humeral fracture
  vertebral fracture
  rib fracture
    callus rib fracture
gynecomastia
hiatal hernia
Chilaiditi sign
hemidiaphragm elevation
diaphragmatic eventration
tracheostomy tube
endotracheal tube
NSG tube
chest drain tube
ventriculoperitoneal drain tube
gastrostomy tube
nephrostomy tube
double J stent
catheter
  central venous catheter
    central venous catheter via subclavian vein
    central venous catheter via jugular vein
    reservoir central venous catheter
    central venous catheter via umbilical vein
electrical device
  dual chamber device
  single chamber device
  pacemaker
  dai
artificial heart valve
  artificial mitral heart valve
  artificial aortic heart valve
surgery
  metal
    osteosynthesis material
    sternotomy
    suture material
  bone cement
  prosthesis
    humeral prosthesis
    mammary prosthesis
    endoprosthesis
      aortic endoprosthesis
  surgery breast
    mastectomy
  surgery neck
  surgery lung
  surgery heart
  surgery humeral
abnormal foreign body
external foreign body
"""


def _read_tree(text: str) -> dict[str, frozenset[str]]:
    """What each name counts for: itself and all that is above it, wherever it stands; in the tree's order."""
    parents: dict[str, set[str]] = {}
    above: list[str] = []
    for line in text.strip().splitlines():
        name = line.strip()
        above = above[: (len(line) - len(line.lstrip())) // 2]
        parents.setdefault(name, set()).update(above[-1:])
        above.append(name)

    def counts_for(name: str) -> frozenset[str]:
        return frozenset({name}).union(*(counts_for(parent) for parent in parents[name]))

    return {name: counts_for(name) for name in parents}


DIFFERENTIAL = _read_tree(_DIFFERENTIAL)
"""The 19 differential diagnoses: name -> the names that it counts for, among them itself."""

FINDINGS = _read_tree(_FINDINGS)
"""The 170 radiographic findings: name -> the names that it counts for, among them itself."""
