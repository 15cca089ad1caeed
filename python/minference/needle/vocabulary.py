"""The words that haystacks, needles and keys are made of. English, lower case, one word each; our own lists."""

NOUNS = """ acorn adapter airfield alcove album almanac altar amber anchor anthem antler anvil apple
apricot aqueduct arbor arcade arch archer archive arena armor arrow artist ashes aspen atlas attic
auction autumn avenue awning axle baker balcony ballad bamboo banner banquet barge barley barn baron
barrel basin basket battery bazaar beacon beaker beaver bellows bench berry bicycle binder birch biscuit
blanket blossom boiler bonnet border bottle boulder bouquet bracelet branch brass bread breeze brewer
brick bridge bristle broker bronze brook bucket buckle bugle bundle bureau burrow bushel butcher butter
button cabbage cabin cable cactus camel camera campus canal candle canoe canopy canvas canyon caravan
cargo carpet carriage carrot cartoon cascade casket castle catalog cathedral cavern cedar cellar cement
chalice chalk chamber channel chapel chapter chariot charter cherry chest chimney chisel choir cider
cinema cipher circus citadel citron clarinet clerk cliff cloak clock cloister closet clover cluster
coast cobbler coffee column comet compass concert copper coral cork corner corridor cottage cotton
council courier cousin cradle crane crater crayon creek cricket crown crystal cuckoo cupboard current
curtain cushion cyclist daisy dancer dawn decree deputy desert dialect diamond diary dinner diploma
dolphin donkey doorway dragon drawer drummer dune eagle easel echo eclipse editor elbow ember emblem
emperor engine envelope errand estate evening fabric factory falcon farmer feather fence fender ferry
fiddle figure finch fiord fisher flagon flame flannel flask fleet flour flower flute foil forest forge
fortress fossil fountain foxglove fresco frigate frost furnace gable gallery galley garden garland
garlic garment garnet garrison gate gazelle ginger glacier glade glider globe glove goblet gondola
gospel granary granite grape gravel grocer grotto grove guitar gulf gully hammer hamlet hammock harbor
harness harp harvest hatchet haven hawk hazel heather hedge helmet herald herb hermit heron hillside
hinge hollow honey horizon hornet hotel hunter hurdle iceberg igloo inkwell insect island ivory jackal
jacket jasmine jersey jewel jigsaw journal jungle juniper kennel kernel kettle keyboard kitchen kite
knight knuckle ladder lagoon lantern larch lasso lattice laundry laurel lawyer leather ledger lemon
lentil leopard letter lettuce lever library lighthouse lilac limestone linen lizard lobby locket locust
lodge lumber lyric machine magnet magpie mallet mandolin mango manor mantle maple marble margin mariner
market marsh mason mast meadow medal melon melody mentor merchant meteor mill miner mirror mistral
mitten mixture moat monarch monk monsoon mortar mosaic moth motor mountain muffin mural museum musket
mustard napkin narrow nectar needle nephew nettle nickel nomad notebook novel nugget nursery nutmeg
oasis oboe ocean octopus officer olive onion opal orange orbit orchard orchid organ otter outpost oven
oxygen oyster package paddle padlock pageant palace pamphlet panel panther paper parade parcel parlor
parrot passage pasture patrol pavilion peach pearl pebble pedal pelican pencil pendulum pepper perch
petal pewter pheasant phrase piano picnic pigeon pillar pillow pilot pine pirate piston pitcher plank
planet plaster platter plaza plum pocket poet pollen pond pony poplar poppy porch portal portrait potter
prairie prelude printer prism prophet province puddle pulley pumpkin puppet purse puzzle pyramid quarry
quartz quilt rabbit radar radish raft rafter railway raisin rampart ranger ravine razor reaper rebel
recipe reef refuge region relic ribbon riddle ridge ring river robin rocket rooster rosary roster rudder
ruin runway saddle saffron sailor salad salmon salon sandal sapphire satchel satin saucer sawmill scarf
scholar school scooter screen scribe sculptor season seed senator shadow shamrock shelf shepherd sherpa
shield shipyard shore shovel shrine shutter sickle signal silver siren sketch sleeve sleigh slipper
smith soldier sonnet sparrow spear spice spider spindle spinach spiral spring squash squire stable
stadium staircase statue steam steeple stencil steward stone stork stove stream student studio summit
sundial surgeon swallow swamp sweater symbol tailor talon tangle tanker tapestry tavern teacher teapot
temple tenant tent terrace thicket thimble thistle throne thunder ticket tiger timber tinder toast
tobacco tomato topaz torch tortoise tower tractor trader trail trumpet trunk tulip tundra tunnel turbine
turnip turtle tutor twig umbrella uncle urn valley vanilla vapor vault velvet vendor veranda vessel
viaduct village vine violet violin visitor volcano voyage wagon waiter walnut walrus warden warehouse
warrior waterfall wax weaver wedding well wharf wheat wheel whisker whistle widow willow windmill window
winter wizard wolf woodland workshop wreath wren writer yacht yard yarn zebra zenith zephyr zipper
""".split()

ADJECTIVES = """
able absent active agile alert amusing ancient ample anxious aware bitter blank blunt bold brave brief
bright brisk broad broken calm careful careless cautious cheap clean clear clever cloudy clumsy coarse
cold common costly cozy crisp crooked crowded curious curved damp daring dark dear deep dense distant
double dry dull dusty eager early eastern easy elder elegant empty equal exact faint fair faithful
famous fancy fast fertile fierce fine firm flat fluent foggy foreign formal fragile frank free frequent
fresh friendly frozen full gentle giant glad gloomy golden graceful grand grateful great green handsome
handy happy hard hasty heavy hidden high hollow honest humble hungry icy idle immense inner jolly keen
kind large lasting late lazy lean light likely little lively local lonely long loose loud lovely low
loyal lucky mellow merry mighty mild minor misty modern modest muddy narrow neat nimble noble noisy
northern novel oblong odd old open ordinary outer oval pale patient peaceful plain pleasant polite poor
precise pretty private proud public pure quaint quick quiet rapid rare ready recent remote rich rigid
ripe rough round royal rural rusty sacred safe salty secret serene severe shady shallow sharp shiny
short shy silent simple sincere slender slow small smooth snowy soft solid sparse spare special square
stable steady steep stern stiff still strange strict strong sturdy sudden sunny sweet swift tall tame
tender thick thin thorough tidy timid tiny tired tough useful usual vacant vague vast vivid warm weary
western wet whole wide wild windy wise wooden worn worthy young zealous
""".split()

# Past tense with an object, and without.
ACTIONS = """
admired adorned altered answered arranged awaited balanced blessed borrowed brought built buried carried
carved caught chased checked chose cleaned climbed collected compared copied counted covered crossed
decorated delivered described designed discovered divided drew drove engraved examined exchanged
explored fastened filled finished fixed followed forgot found framed gathered greeted guarded guided
handled hauled heard helped hid hired ignored imagined inherited inspected joined kept kindled labeled
lifted loaded loved lowered measured mended moved named noticed observed offered opened ordered packed
painted passed placed planted polished praised prepared preserved printed promised protected pulled
purchased pushed raised reached recalled received recorded remembered removed repaired replaced returned
revealed saved sealed searched sent served shaped shared sheltered showed sketched sold sorted studied
surveyed swept tasted thanked tied touched traced traded trusted turned unfolded unlocked valued visited
warmed washed watched weighed welcomed wrapped
""".split()

EVENTS = """
appeared arrived began bloomed changed creaked crumbled danced disappeared drifted echoed ended faded
fell flickered floated flourished gleamed glowed grew hesitated hurried laughed leaned lingered listened
marched melted paused rattled remained rested returned rolled rose rustled sailed settled shone sighed
slept smiled sparkled spread stayed stopped swayed trembled vanished waited wandered whispered worked
""".split()

ADVERBS = """
again almost already always apparently barely briefly calmly carefully certainly clearly eagerly early
easily eventually finally firmly gently gladly gradually happily hardly highly honestly instantly kindly
largely lately loudly mostly naturally nearly neatly never obviously often once openly patiently perhaps
plainly politely possibly probably proudly quickly quietly rarely readily really seldom silently simply
slowly smoothly softly sometimes soon steadily still suddenly surely swiftly usually warmly wisely
""".split()
