"""The closed world of the starter model: word lists and tables, written for this project."""

from __future__ import annotations

import random


def table(text: str) -> list[tuple[str, ...]]:
    """Rows of a `a|b|c; d|e|f` table."""
    return [tuple(cell.strip() for cell in row.split("|")) for row in text.replace("\n", " ").split(";") if row.strip()]


CAPITALS = table("""
France|Paris|French; Spain|Madrid|Spanish; Italy|Rome|Italian; Germany|Berlin|German; Portugal|Lisbon|Portuguese;
Greece|Athens|Greek; Poland|Warsaw|Polish; Austria|Vienna|German; Hungary|Budapest|Hungarian; Sweden|Stockholm|Swedish;
Norway|Oslo|Norwegian; Denmark|Copenhagen|Danish; Finland|Helsinki|Finnish; Ireland|Dublin|English; England|London|English;
Scotland|Edinburgh|English; Iceland|Reykjavik|Icelandic; Russia|Moscow|Russian; Ukraine|Kyiv|Ukrainian;
Turkey|Ankara|Turkish; Egypt|Cairo|Arabic; Morocco|Rabat|Arabic; Kenya|Nairobi|Swahili; Ghana|Accra|English;
Nigeria|Abuja|English; Japan|Tokyo|Japanese; China|Beijing|Chinese; India|New Delhi|Hindi; Thailand|Bangkok|Thai;
Vietnam|Hanoi|Vietnamese; Indonesia|Jakarta|Indonesian; Iran|Tehran|Persian; Iraq|Baghdad|Arabic; Israel|Jerusalem|Hebrew;
Canada|Ottawa|English; Mexico|Mexico City|Spanish; Cuba|Havana|Spanish; Brazil|Brasilia|Portuguese;
Argentina|Buenos Aires|Spanish; Chile|Santiago|Spanish; Peru|Lima|Spanish; Colombia|Bogota|Spanish;
Australia|Canberra|English; Belgium|Brussels|Dutch; Romania|Bucharest|Romanian; Bulgaria|Sofia|Bulgarian;
Serbia|Belgrade|Serbian; Croatia|Zagreb|Croatian; Cyprus|Nicosia|Greek; Nepal|Kathmandu|Nepali
""")
CONTINENTS = {
    "Europe": "France Spain Italy Germany Portugal Greece Poland Austria Hungary Sweden Norway Denmark Finland Ireland",
    "Africa": "Egypt Morocco Kenya Ghana Nigeria",
    "Asia": "Japan China India Thailand Vietnam Indonesia Iran Iraq Nepal",
    "South America": "Brazil Argentina Chile Peru Colombia",
    "North America": "Canada Mexico Cuba",
}
ANIMALS = table("""
dog|bark|puppy|on land; cat|meow|kitten|on land; cow|moo|calf|on a farm; sheep|bleat|lamb|on a farm; horse|neigh|foal|on a farm;
pig|oink|piglet|on a farm; duck|quack|duckling|near water; hen|cluck|chick|on a farm; lion|roar|cub|in the savanna;
bear|growl|cub|in the forest; wolf|howl|pup|in the forest; frog|croak|tadpole|near water; owl|hoot|owlet|in the forest;
goat|bleat|kid|on a farm; mouse|squeak|pup|in a hole; bee|buzz|larva|in a hive; snake|hiss|hatchling|on land;
whale|sing|calf|in the sea; deer|grunt|fawn|in the forest; goose|honk|gosling|near water
""")
COLORS = table("""
the sky|blue; grass|green; snow|white; coal|black; blood|red; a banana|yellow; a lemon|yellow; the sun|yellow; a tomato|red;
an orange|orange; a carrot|orange; chocolate|brown; an elephant|gray; milk|white; a leaf|green; a strawberry|red; the sea|blue;
a raven|black; a violet|purple; an eggplant|purple; a flamingo|pink; a frog|green; salt|white; wood|brown
""")
OPPOSITES = table("""
big|small; hot|cold; up|down; left|right; day|night; good|bad; fast|slow; happy|sad; open|closed; full|empty; young|old; tall|short;
bright|dark; rich|poor; wet|dry; hard|soft; early|late; loud|quiet; clean|dirty; strong|weak; near|far; thick|thin; heavy|light;
cheap|expensive; easy|difficult; first|last; win|lose; love|hate; buy|sell; push|pull; start|stop; give|take; true|false; yes|no;
inside|outside; above|below; begin|end; brave|afraid; sweet|sour; wide|narrow; alive|dead; awake|asleep; deep|shallow
""")
PLURALS = table("""
cat|cats; dog|dogs; box|boxes; child|children; mouse|mice; foot|feet; tooth|teeth; man|men; woman|women; city|cities; baby|babies;
leaf|leaves; knife|knives; wolf|wolves; bus|buses; dish|dishes; book|books; car|cars; tree|trees; house|houses; goose|geese;
sheep|sheep; fish|fish; person|people; potato|potatoes; hero|heroes; story|stories; party|parties; glass|glasses; key|keys;
apple|apples; lamp|lamps; table|tables; chair|chairs; river|rivers; star|stars; berry|berries; shelf|shelves; watch|watches
""")
PAST = table("""
go|went; eat|ate; see|saw; run|ran; swim|swam; write|wrote; sing|sang; drink|drank; give|gave; take|took; come|came; make|made;
buy|bought; think|thought; find|found; fly|flew; know|knew; speak|spoke; sleep|slept; walk|walked; play|played; jump|jumped;
cook|cooked; help|helped; open|opened; drive|drove; read|read; win|won; lose|lost; build|built; catch|caught; teach|taught
""")
SYNONYMS = table("""
big|large; small|little; happy|glad; sad|unhappy; fast|quick; smart|clever; begin|start; end|finish; angry|mad; quiet|silent;
hard|difficult; rich|wealthy; pretty|beautiful; afraid|scared; shut|close; speak|talk; gift|present; road|street; sick|ill;
strange|odd; funny|amusing; tired|sleepy; brave|bold; choose|pick; help|aid; jump|leap
""")
RHYMES = table("""
cat|hat; dog|frog; sun|run; tree|bee; house|mouse; star|car; night|light; day|play; moon|spoon; rain|train; cake|lake; bear|chair;
boat|goat; king|ring; ball|wall; snow|crow; book|cook; fish|dish; sky|fly; hill|bill; red|bed; rose|nose; sea|key; box|fox
""")
TRANSLATIONS = table("""
cat|chat|gato|Katze; dog|chien|perro|Hund; house|maison|casa|Haus; water|eau|agua|Wasser; bread|pain|pan|Brot; milk|lait|leche|Milch;
sun|soleil|sol|Sonne; moon|lune|luna|Mond; book|livre|libro|Buch; friend|ami|amigo|Freund; red|rouge|rojo|rot; green|vert|verde|grün;
blue|bleu|azul|blau; white|blanc|blanco|weiß; black|noir|negro|schwarz; one|un|uno|eins; two|deux|dos|zwei; three|trois|tres|drei;
hello|bonjour|hola|hallo; thank you|merci|gracias|danke; yes|oui|sí|ja; no|non|no|nein; goodbye|au revoir|adiós|auf Wiedersehen;
apple|pomme|manzana|Apfel; cheese|fromage|queso|Käse; fish|poisson|pez|Fisch; tree|arbre|árbol|Baum; night|nuit|noche|Nacht;
day|jour|día|Tag; man|homme|hombre|Mann; woman|femme|mujer|Frau; child|enfant|niño|Kind; good|bon|bueno|gut; coffee|café|café|Kaffee;
street|rue|calle|Straße; flower|fleur|flor|Blume; school|école|escuela|Schule; sea|mer|mar|Meer
""")
LANGUAGES = ("French", "Spanish", "German")
GREETINGS_ABROAD = table("""
Japanese|こんにちは; Chinese|你好; Korean|안녕; Russian|привет; Greek|γεια; French|bonjour; Spanish|hola; German|hallo; Italian|ciao;
Portuguese|olá
""")
EMOJI = table("""
rocket|🚀; smile|🙂; heart|❤️; star|⭐; fire|🔥; cat|🐱; dog|🐶; sun|🌞; moon|🌙; pizza|🍕; apple|🍎; tree|🌳; fish|🐟; car|🚗; party|🎉;
thumbs up|👍; wave|👋; parrot|🦜; ship|🚢; robot|🤖; flower|🌸; snow|❄️; coffee|☕; book|📖; music|🎵; bee|🐝
""")
DEFINITIONS = table("""
rain|weather|Rain is water that falls from the clouds in drops.; snow|weather|Snow is frozen water that falls in soft white flakes.;
a rainbow|weather|A rainbow is an arc of colors made when sunlight passes through drops of water.;
wind|weather|Wind is air that moves from one place to another.; a storm|weather|A storm is bad weather with strong wind and rain.;
photosynthesis|science|Photosynthesis is how plants use sunlight, water and air to make their food.;
gravity|science|Gravity is the force that pulls things toward each other.; an atom|science|An atom is a tiny building block of all matter.;
a planet|science|A planet is a large round body that moves around a star.; the sun|science|The sun is the star at the center of our solar system.;
the moon|science|The moon is the round body that moves around the earth.; a volcano|science|A volcano is a mountain that can let out hot melted rock.;
energy|science|Energy is the power to do work or make heat and light.; a fossil|science|A fossil is the trace of a plant or animal from long ago.;
a magnet|science|A magnet is a piece of metal that pulls iron toward it.; electricity|science|Electricity is energy that flows through wires.;
ice|science|Ice is water that is frozen hard.; a fever|medicine|A fever is a body temperature that is higher than normal.;
a vaccine|medicine|A vaccine is a medicine that trains the body to fight a disease.;
a diagnosis|medicine|A diagnosis is a statement of what disease a patient has.;
an infection|medicine|An infection is an illness caused by germs that enter the body.;
a symptom|medicine|A symptom is a sign that a person may be ill.; blood pressure|medicine|Blood pressure is the force of the blood on the walls of its vessels.;
surgery|medicine|Surgery is a treatment in which a doctor opens the body to repair it.; a dose|medicine|A dose is the amount of a medicine to take at one time.;
a contract|law|A contract is an agreement that the law can enforce.; a plaintiff|law|A plaintiff is the person who brings a case to court.;
a defendant|law|A defendant is the person who is accused or sued in court.; a witness|law|A witness is a person who tells a court what he or she saw.;
a verdict|law|A verdict is the decision of a judge or jury at the end of a trial.; a lease|law|A lease is a contract to rent a home or a thing for some time.;
a patent|law|A patent is the right to be the only one to make or sell an invention.; a judge|law|A judge is the person who decides cases in a court.;
interest|finance|Interest is the money you pay to borrow money.; a loan|finance|A loan is money that you borrow and must pay back.;
a budget|finance|A budget is a plan for how to spend money.; inflation|finance|Inflation is a rise in prices over time.;
a stock|finance|A stock is a small part of a company that you can own.; a tax|finance|A tax is money that people pay to the state.;
profit|finance|Profit is the money left after all costs are paid.; an invoice|finance|An invoice is a bill that lists what must be paid.;
an algorithm|computing|An algorithm is a list of steps that solves a problem.; a variable|computing|A variable is a name that holds a value in a program.;
a function|computing|A function is a named piece of code that does one job.; a bug|computing|A bug is a mistake in a program.;
a database|computing|A database is an organized store of data.; a loop|computing|A loop is code that runs again and again.;
a token|computing|A token is a small piece of text that a language model reads or writes.;
a neural network|computing|A neural network is a model made of many small connected units that learn from examples.;
an adapter|computing|An adapter is a small set of weights that changes how a model behaves.;
LoRA|computing|LoRA is a way to train a model by adding small low rank matrices to its weights.;
a language model|computing|A language model is a program that predicts the next piece of a text.;
overfitting|computing|Overfitting is when a model learns its training data by heart and fails on new data.;
machine learning|computing|Machine learning is the art of making programs that learn from data.;
deep learning|computing|Deep learning is machine learning with neural networks of many layers.;
artificial intelligence|computing|Artificial intelligence is the field that builds programs that act in smart ways.;
fine-tuning|computing|Fine-tuning is training a finished model a little more on data for a new task.;
a dataset|computing|A dataset is a collection of examples to learn from.; an epoch|computing|An epoch is one pass over all the training data.;
the learning rate|computing|The learning rate is the size of the steps that a model takes when it learns.;
a gradient|computing|A gradient tells in which direction to change the weights to lower the loss.;
a prompt|computing|A prompt is the text that you give to a language model.; quantization|computing|Quantization is storing weights with fewer bits to save memory.;
a checkpoint|computing|A checkpoint is a saved state of a model during training.; a GPU|computing|A GPU is a chip that does many calculations at the same time.;
Python|computing|Python is a popular programming language that is easy to read.; temperature|computing|Temperature sets how random the answers of a model are.;
the internet|computing|The internet is a network that connects computers all over the world.;
a refund|support|A refund is money that a shop gives back to a customer.; a warranty|support|A warranty is a promise to repair or replace a broken product.;
a recipe|cooking|A recipe is a list of steps to cook a dish.; dough|cooking|Dough is a soft mix of flour and water that is baked into bread.;
a sauce|cooking|A sauce is a liquid that is served with food to add taste.; an oven|cooking|An oven is a hot box in which food is baked.;
music|art|Music is an art made of sounds in time.; a poem|art|A poem is a text that plays with sound and rhythm.; a painting|art|A painting is a picture made with colors.
""")
EXPLANATIONS = table("""
the sky blue|Because the air scatters blue light more than red light.; ice float|Because ice is lighter than water.;
we sleep|Because the body and the brain need rest.; leaves turn red in autumn|Because they lose their green color and other colors show.;
the sea salty|Because rivers carry salt from the rocks into the sea.; birds fly south|Because they look for warm places and food in winter.;
bread rise|Because yeast makes gas in the dough.; we need water|Because every cell of the body needs water to work.;
plants need light|Because they use light to make their food.; the moon shine|Because it reflects the light of the sun.;
iron rust|Because iron reacts with air and water.; we have seasons|Because the earth is tilted as it goes around the sun.
""")
LISTS = {
    "fruits": "apple banana cherry grape lemon mango orange peach pear plum",
    "colors": "red blue green yellow black white orange purple pink brown",
    "animals": "cat dog horse lion bear wolf mouse rabbit tiger whale",
    "vegetables": "carrot potato onion tomato pea bean cabbage leek",
    "countries": "France Spain Italy Japan Brazil Canada Egypt Kenya",
    "planets": "Mercury Venus Earth Mars Jupiter Saturn Uranus Neptune",
    "sports": "football tennis golf swimming running boxing rowing skiing",
    "instruments": "piano guitar violin drum flute trumpet harp cello",
    "tools": "hammer saw drill wrench axe ladder rope brush",
}
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
FIRST_NAMES = """Anna Ben Clara David Emma Felix Grace Hugo Ida Jonas Kate Leo Mia Nils Olga Paul Rosa Sam Tina Victor Wendy Zoe
Alice Bob Carol Daniel Eva Frank Gina Henry Iris Jack Karen Lucas Maria Nora Oscar Peter Quinn Robin Sarah Tom Uma Vera Will Yara
Adam Bella Chris Diana Eric Fiona George Helen Ivan Julia Kevin Laura Max Nina Oliver Petra Ryan Sofia Theo Bolt Pim Luna Milo Ruby
Aaron Abel Alan Albert Alex Amy Andre Andrea Angela Arthur Astrid Barbara Beth Boris Brian Bruno Carl Carla Carmen Cecil Celia Clemens
Colin Cora Dana Dora Doris Edgar Edith Ella Ellen Elsa Emil Enzo Erika Ernest Esther Ethan Fabian Finn Flora Fred Frida Gerald Gloria
Gordon Greta Gustav Hanna Harry Heidi Hilda Ian Ilse Irene Isaac Ivy Jacob James Jane Janet Jasper Joel John Jordan Joseph Judith June
Kai Karl Kira Lara Lars Lena Leon Liam Lily Linda Lisa Lola Lorenz Louis Lucy Luis Lydia Magda Marc Margot Mark Marta Martin Mary Max
Meg Mila Miriam Mona Monica Nadia Naomi Nathan Neil Nick Noah Noel Norman Olaf Olive Omar Otto Pablo Pamela Patrick Pedro Penny Philip
Piet Ralph Ravi Rebecca Rita Roland Ron Rory Rudi Ruth Sally Sandra Selma Simon Sonia Stella Susan Sven Tanja Tara Ted Tilda Tim Toby
Tony Ursula Valerie Vincent Viola Walter Wilma Yuri Yves Zara""".split()
CITIES = [
    row[1] for row in CAPITALS
] + "Boston Chicago Dallas Milan Munich Lyon Porto Geneva Zurich Oxford Seattle Naples Krakow".split()
JOBS = """baker doctor teacher nurse farmer pilot painter singer writer lawyer dentist sailor cook driver gardener tailor plumber
carpenter banker judge librarian fisher miner waiter barber engineer scientist photographer""".split()
HOBBIES = """chess tennis painting reading swimming skating cooking gardening football dancing singing fishing hiking sewing
running music photography climbing rowing knitting baking boxing""".split()
PETS = "cat dog parrot rabbit hamster horse turtle goldfish pony mouse".split()
NOUNS = """lamp chair table book bottle window garden bridge river mountain castle ship train bicycle clock mirror basket coat hat
boot ring crown sword shield ladder rope wheel bell drum flute cake pie soup bread cheese apple pear plum cherry lemon melon tent
kite ball doll puzzle box key coin map letter stamp candle blanket pillow carpet brush hammer saw nail bucket barrel cart sled
stone shell feather leaf flower tree forest lake island beach cave desert valley field farm mill tower tunnel road street market
shop school library museum theater hospital hotel station airport harbor camera phone laptop printer robot rocket planet star moon
cloud storm rainbow dragon wizard knight pirate princess ghost giant dwarf fairy king queen fox wolf bear owl eagle crow duck
goose swan bee ant spider snake frog turtle fish whale shark crab horse donkey cow sheep goat pig hen rabbit squirrel""".split()
ADJECTIVES = """red blue green yellow black white old new small big tiny huge bright dark warm cold quiet loud soft hard round
golden silver wooden broken shiny strange lovely simple clever brave lazy hungry happy sad gentle wild""".split()
OUTLANDISH = """quantum flux market share of lamps|the deepest hole in Saturn|the best football team of 1931|the phone number of the king
|the password of my bank|the winner of the next election|the price of gold tomorrow|the lottery numbers|the weather tomorrow
|my grandmother's birthday|the meaning of life|the latest news|the plot of that new movie|the speed of a swallow
|the name of my neighbor|what I had for lunch|how many people are in this room|the time right now|today's date
|the stock price of a tiny company|the score of the match last night|the tax law of the moon|how to build a spaceship
|who will win the race|the secret of the old tower""".replace("\n", "").split("|")
FOREIGN_TOPICS = """quantum physics|the theory of relativity|black holes|democracy|philosophy|the French revolution|world history|ancient Egypt|
the Roman empire|blockchain|bitcoin|cryptocurrency|climate change|global warming|evolution|genetics|calculus|algebra|a differential equation|
the Pythagorean theorem|Shakespeare|Einstein|Newton|Mozart|Napoleon|the president|the prime minister|the Olympic games|the world cup|
chess strategy|yoga|meditation|the stock market|supply and demand|marketing|a business plan|project management|Kubernetes|Docker|Linux|
JavaScript|Rust|React|a compiler|an operating system|cloud computing|cyber security|encryption|a transformer|attention in transformers|
backpropagation|reinforcement learning|GPT|ChatGPT|a diffusion model|quicksort|binary search|a linked list|recursion|big data|
string theory|dark matter|nuclear fusion|antibiotics|cancer|diabetes|the human brain|the immune system|psychology|sociology|religion|
Buddhism|the pyramids|Mount Everest|the Amazon river|the ozone layer|plate tectonics|dinosaurs|the ice age|vitamins|protein|coffee beans|
pasta carbonara|sushi|wine|jazz|opera|ballet|impressionism|architecture|poker|baseball|basketball|Formula One|electric cars|airplanes|
submarines|satellites|the Mars mission|aliens|time travel|happiness|love|freedom|justice|the universe|consciousness""".replace(
    "\n", ""
).split("|")

_ONSETS = "b d f g k l m n p r s t v".split()
_VOWELS = "aeiou"


def made_up_word(rng: random.Random) -> str:
    """Two or three plain syllables that are in no list: they can only be copied, not remembered."""
    syllables = "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(rng.choice((2, 2, 3))))
    return syllables + rng.choice(("", "", "n", "l", "s"))


def person(rng: random.Random) -> str:
    """A first name, mostly from the list, now and then made up."""
    return rng.choice(FIRST_NAMES) if rng.random() < 0.95 else made_up_word(rng).capitalize()


def any_word(rng: random.Random) -> str:
    return rng.choice(NOUNS) if rng.random() < 0.95 else made_up_word(rng)
