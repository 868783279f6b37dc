"""The words that the families draw from: short, common, and each with one right answer."""


def _words(text: str) -> list[str]:
    return text.split()


NAMES = _words(
    "Ann Ben Cara Dan Eva Finn Gina Hugo Ida Jack Kate Leo Mia Noah Olga Paul Rosa Sam Tina Umar Vera Will Yara Zoe"
)
GOODS = _words("pens cups hats keys eggs toys books coins cards shells stamps apples plums nuts beads")
CITIES = _words("Rome Paris Cairo Lima Oslo Delhi Tokyo Quito Accra Vienna Madrid Dublin Prague Athens Berlin")
PETS = _words("cat dog fish horse rabbit parrot hamster turtle goat mouse")
COLOURS = _words("red blue green yellow pink brown black white purple orange")
TEAMS = _words("Lions Bears Wolves Hawks Sharks Tigers Foxes Bulls Eagles Ravens Stars Giants")
FUNCTIONS = _words("area score price total level speed count size bonus shift scale width depth limit weight")
OBJECTS = _words("wall door car boat box bike window table ball lamp chair cart gate fence shelf bench")

WORDS = _words(
    "lamp stone river chair cloud apple train paper tiger bread clock grass house money night ocean piano queen radio "
    "sugar table uncle voice water garden window butter candle dragon engine finger hammer island jacket kitchen "
    "ladder market needle orange pencil rocket silver tunnel valley winter yellow basket carpet doctor forest guitar "
    "honey lemon mirror number pillow salad ticket violin wagon"
)

LADDER = _words(
    "flea ant bee mouse shoe cat goat horse elephant whale castle hill mountain Moon Mars Earth Jupiter Sun galaxy"
)
"""Things from the smallest to the biggest, each far from its neighbours."""

TRUE_COLOURS = {
    "snow": "white",
    "grass": "green",
    "coal": "black",
    "milk": "white",
    "blood": "red",
    "corn": "yellow",
    "cocoa": "brown",
    "salt": "white",
    "tar": "black",
    "moss": "green",
    "mud": "brown",
    "rice": "white",
    "soot": "black",
    "mint": "green",
    "butter": "yellow",
    "ketchup": "red",
    "sugar": "white",
    "spinach": "green",
    "mustard": "yellow",
    "chalk": "white",
}

TROPHIC_TIERS = (
    _words("grass clover wheat lettuce barley nettle"),
    _words("beetle cricket aphid snail moth locust"),
    _words("frog toad lizard shrew robin newt"),
    _words("snake weasel heron stork stoat pike"),
    _words("eagle owl hawk wolf lynx falcon"),
)
"""What eats what: an animal of one tier eats the one before it in its chain."""

REGULAR_NOUNS = _words(
    "cat dog car book tree lamp stone river chair cloud apple train tiger clock house night ocean piano queen radio "
    "table voice garden window candle dragon engine finger hammer island jacket ladder market needle pencil rocket "
    "tunnel valley winter basket carpet doctor forest guitar lemon mirror number pillow ticket violin wagon bird boat "
    "cup door egg flag frog game hand hat key king leg letter lion map moon nail nest oven pen pig plant road rope "
    "ship shoe shop song spoon star stick street tail tent tower town village wall wheel wing girl"
)
SIBILANT_NOUNS = _words(
    "box bus dish glass brush church peach watch fox dress bench match lunch class kiss city baby lady party story "
    "berry cherry puppy pony fairy penny"
)
"""Nouns whose plural ends in -es or -ies."""
IRREGULAR_PLURALS = {
    "man": "men",
    "woman": "women",
    "child": "children",
    "foot": "feet",
    "tooth": "teeth",
    "goose": "geese",
    "mouse": "mice",
    "ox": "oxen",
    "knife": "knives",
    "wife": "wives",
    "life": "lives",
    "leaf": "leaves",
    "loaf": "loaves",
    "wolf": "wolves",
    "shelf": "shelves",
    "thief": "thieves",
    "sheep": "sheep",
    "deer": "deer",
}

VERBS = {
    "paint": ("paints", "painted"),
    "wash": ("washes", "washed"),
    "clean": ("cleans", "cleaned"),
    "open": ("opens", "opened"),
    "close": ("closes", "closed"),
    "repair": ("repairs", "repaired"),
    "carry": ("carries", "carried"),
    "follow": ("follows", "followed"),
    "watch": ("watches", "watched"),
    "kick": ("kicks", "kicked"),
    "push": ("pushes", "pushed"),
    "fill": ("fills", "filled"),
    "check": ("checks", "checked"),
    "move": ("moves", "moved"),
    "lift": ("lifts", "lifted"),
    "pull": ("pulls", "pulled"),
}
"""Verb → third person, past participle (which is its past as well)."""

LANGUAGES = ["French", "Spanish", "German", "Italian"]
TRANSLATIONS = {
    "one": ("un", "uno", "eins", "uno"),
    "two": ("deux", "dos", "zwei", "due"),
    "three": ("trois", "tres", "drei", "tre"),
    "four": ("quatre", "cuatro", "vier", "quattro"),
    "five": ("cinq", "cinco", "fünf", "cinque"),
    "six": ("six", "seis", "sechs", "sei"),
    "seven": ("sept", "siete", "sieben", "sette"),
    "eight": ("huit", "ocho", "acht", "otto"),
    "nine": ("neuf", "nueve", "neun", "nove"),
    "ten": ("dix", "diez", "zehn", "dieci"),
    "red": ("rouge", "rojo", "rot", "rosso"),
    "green": ("vert", "verde", "grün", "verde"),
    "white": ("blanc", "blanco", "weiß", "bianco"),
    "black": ("noir", "negro", "schwarz", "nero"),
    "yellow": ("jaune", "amarillo", "gelb", "giallo"),
    "cat": ("chat", "gato", "Katze", "gatto"),
    "dog": ("chien", "perro", "Hund", "cane"),
    "horse": ("cheval", "caballo", "Pferd", "cavallo"),
    "cow": ("vache", "vaca", "Kuh", "mucca"),
    "bird": ("oiseau", "pájaro", "Vogel", "uccello"),
    "house": ("maison", "casa", "Haus", "casa"),
    "water": ("eau", "agua", "Wasser", "acqua"),
    "bread": ("pain", "pan", "Brot", "pane"),
    "milk": ("lait", "leche", "Milch", "latte"),
    "sun": ("soleil", "sol", "Sonne", "sole"),
    "moon": ("lune", "luna", "Mond", "luna"),
    "book": ("livre", "libro", "Buch", "libro"),
    "tree": ("arbre", "árbol", "Baum", "albero"),
    "day": ("jour", "día", "Tag", "giorno"),
    "night": ("nuit", "noche", "Nacht", "notte"),
    "king": ("roi", "rey", "König", "re"),
}
"""English → the word in each of `LANGUAGES`, in their order."""

ELEMENTS = {
    "hydrogen": "H",
    "helium": "He",
    "lithium": "Li",
    "boron": "B",
    "carbon": "C",
    "nitrogen": "N",
    "oxygen": "O",
    "fluorine": "F",
    "neon": "Ne",
    "sodium": "Na",
    "magnesium": "Mg",
    "aluminium": "Al",
    "silicon": "Si",
    "phosphorus": "P",
    "sulfur": "S",
    "chlorine": "Cl",
    "argon": "Ar",
    "potassium": "K",
    "calcium": "Ca",
    "titanium": "Ti",
    "chromium": "Cr",
    "manganese": "Mn",
    "iron": "Fe",
    "cobalt": "Co",
    "nickel": "Ni",
    "copper": "Cu",
    "zinc": "Zn",
    "arsenic": "As",
    "bromine": "Br",
    "krypton": "Kr",
    "silver": "Ag",
    "tin": "Sn",
    "iodine": "I",
    "xenon": "Xe",
    "barium": "Ba",
    "tungsten": "W",
    "platinum": "Pt",
    "gold": "Au",
    "mercury": "Hg",
    "lead": "Pb",
    "radium": "Ra",
    "thorium": "Th",
    "uranium": "U",
    "radon": "Rn",
}
