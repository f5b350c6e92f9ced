"""More pairs of questions for the answer cache, written after its rules were fixed: none of them was tuned to.

One pair per line, parted by " | ".
"""

from __future__ import annotations

_DIFFERENT = """
    How do I get from Lyon to Paris? | How do I get from Paris to Lyon?
    Is a kilogram heavier than a pound? | Is a pound heavier than a kilogram?
    Can I give ibuprofen to my dog? | Can I give ibuprofen to my dad?
    How do I reset my router? | How do I reset my printer?
    What is the capital of Australia? | What is the capital of Austria?
    What is the capital of Niger? | What is the capital of Nigeria?
    How tall is Mount Fuji? | How old is Mount Fuji?
    Who wrote The Trial? | Who filmed The Trial?
    When was Kafka born? | Where was Kafka born?
    When did Kafka die? | Why did Kafka die?
    How do I freeze bread dough? | How do I thaw bread dough?
    Which side of the road do the Japanese drive on? | Which side of the bed do the Japanese sleep on?
    How do I sort a list in Python? | How do I sort a list in Perl?
    How do I sort a list in ascending order? | How do I sort a list in descending order?
    How do I open a file for reading? | How do I open a file for writing?
    How do I install a package with pip? | How do I remove a package with pip?
    What is the first law of thermodynamics? | What is the second law of thermodynamics?
    What is the boiling point of water in Celsius? | What is the boiling point of water in Fahrenheit?
    What is the melting point of iron? | What is the boiling point of iron?
    How many grams are in an ounce? | How many ounces are in a gram?
    How much is 40 euros in dollars? | How much is 40 dollars in euros?
    Is it cheaper to buy or to rent? | Is it cheaper to rent or to lease?
    May I take this before meals? | May I take this after meals?
    Should I water a cactus daily? | Should I water a cactus weekly?
    What did the minister say before the vote? | What did the minister say after the vote?
    Which birds migrate south in winter? | Which birds migrate north in winter?
    Which birds stay in winter? | Which birds leave in winter?
    How do I add a user to a group? | How do I add a group to a user?
    How do I mount a disk read-only? | How do I mount a disk read-write?
    How do I merge main into my branch? | How do I merge my branch into main?
    How do I undo the last commit? | How do I undo the last push?
    How do I undo the last commit but keep the changes? | How do I undo the last commit and drop the changes?
    What is the largest lake in Africa? | What is the largest lake in America?
    What is the largest lake in Africa? | What is the deepest lake in Africa?
    Who is the king of Spain? | Who is the queen of Spain?
    Who was the king of Spain in 1900? | Who was the king of Spain in 1800?
    What time is it in Lima? | What time is it in Lisbon?
    What should a child eat? | What should a child never eat?
    Which vaccines are needed for Kenya? | Which visas are needed for Kenya?
    Can pregnant women eat sushi? | Can pregnant women eat soup?
    How do I treat a snake bite? | How do I treat a spider bite?
    How long does milk keep in the fridge? | How long does milk keep in the freezer?
    How long does milk keep in the fridge? | How long does meat keep in the fridge?
    How do I write a letter of complaint? | How do I write a letter of thanks?
    How do I say good morning in Greek? | How do I say good evening in Greek?
    How do I say good morning in Greek? | How do I say good morning in German?
    Which is faster, UDP or TCP? | Which is safer, UDP or TCP?
    What does HTTP 401 mean? | What does HTTP 403 mean?
    What does errno 2 mean? | What does errno 22 mean?
    Is 221 a prime number? | Is 223 a prime number?
    What is new in Python 3.11? | What is new in Python 3.12?
    Which planet is nearest to the sun? | Which planet is farthest from the sun?
    Which planet is nearest to the sun? | Which star is nearest to the sun?
    Does coffee raise blood pressure? | Does coffee lower blood pressure?
    Does coffee raise blood pressure? | Does coffee raise blood sugar?
    What are the side effects of stopping aspirin? | What are the side effects of starting aspirin?
    Who invented the telephone? | Who invented the telegraph?
    What is the difference between a crow and a raven? | What is the difference between a crow and a rook?
    Summarise the first chapter | Summarise the last chapter
    Translate "left" into French | Translate "right" into French
    How do I disable the firewall? | How do I disable the firewall only for one program?
    Can I fly with a fever? | Can I fly with a fever if I take paracetamol?
    Is the shop open today? | Is the shop open tomorrow?
    Is it allowed to fish here? | Is it allowed to swim here?
    Which tyres are best for snow? | Which tyres are best for sand?
    How do I make tea without a kettle? | How do I make tea with a kettle?
    Which word comes before "zebra" in the dictionary? | Which word comes after "zebra" in the dictionary?
    Who beat Brazil in 2014? | Whom did Brazil beat in 2014?
    Who killed Hamlet? | Whom did Hamlet kill?
    Does Ana know that Ben lied? | Does Ben know that Ana lied?
    Is Ana older than Ben? | Is Ben older than Ana?
    Is all of the wine gone? | Is some of the wine gone?
    Do most cats like water? | Do few cats like water?
    Must I sign the form? | May I sign the form?
    Why was the train late? | Why was the train early?
    How can I fall asleep? | How can I stay awake?
    How do I turn the heating up? | How do I turn the heating down?
    How do I zip a folder? | How do I unzip a folder?
    What is the singular of data? | What is the plural of data?
    What is the present tense of went? | What is the past tense of went?
"""

_SAME = """
    How deep is Lake Baikal? | What is the depth of Lake Baikal?
    Who wrote The Trial? | Who is the author of The Trial?
    What is the capital of Peru? | Tell me the capital of Peru, please
    What is the capital of Peru? | Which city is the capital of Peru?
    How do I unzip a folder? | How can I unzip a folder?
    What does HTTP 403 mean? | What is the meaning of HTTP 403?
    When was Kafka born? | When was the birth of Kafka?
    What is the plural of mouse? | what's the plural of mouse
    How many legs does a spider have? | How many legs do spiders have?
    Is a tomato a fruit? | Are tomatoes fruits?
    How tall is Mount Fuji? | What is the height of Mount Fuji?
    How long do I boil rice? | How long does rice need to boil?
    How do I say thank you in Greek? | How does one say thank you in Greek?
    What is the largest lake in Africa? | Hi, what is the largest lake in Africa?
    Who painted Guernica? | Who is the painter of Guernica?
    What color is an emerald? | What colour is an emerald?
    Name four rivers in Spain | Please name 4 rivers in Spain
    Which planet is nearest to the sun? | What planet is nearest to the sun?
"""


def _pairs(text: str) -> list[tuple[str, str]]:
    lines = [line.strip() for line in text.strip().splitlines()]
    return [(left, right) for left, _, right in (line.partition(" | ") for line in lines)]


DIFFERENT: list[tuple[str, str]] = _pairs(_DIFFERENT)
"""Ask something else, though nearly in the same words."""
SAME: list[tuple[str, str]] = _pairs(_SAME)
"""Ask the same, in other words."""
