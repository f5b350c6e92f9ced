"""Pairs of questions for the answer cache, written before it was tuned: look-alikes that differ, and true paraphrases.

One pair per line, parted by " | ".
"""

from __future__ import annotations

_DIFFERENT = {
    "negation": """
        Is it safe to eat raw salmon? | Is it not safe to eat raw salmon?
        Which mushrooms are edible? | Which mushrooms are not edible?
        Why does my plant need sun? | Why doesn't my plant need sun?
        Can dogs eat chocolate? | Can't dogs eat chocolate?
        What should I do after a burn? | What should I not do after a burn?
        Which countries are members of NATO? | Which countries are not members of NATO?
        How to sleep with earplugs? | How to sleep without earplugs?
        What foods contain gluten? | What foods contain no gluten?
        When is it legal to record a call? | When is it illegal to record a call?
        Which metals are magnetic? | Which metals are nonmagnetic?
        Is the function reversible? | Is the function irreversible?
        Name animals that can fly | Name animals that cannot fly
        Why is the sky blue? | Why isn't the sky blue?
        List drugs that interact with warfarin | List drugs that never interact with warfarin
        How do I enable notifications? | How do I disable notifications?
        Does aspirin thin the blood? | Does aspirin hardly thin the blood?
        Who voted for the bill? | Who voted against the bill?
        Is honey vegan? | Is honey non-vegan?
        What happens if I take the pill? | What happens if I don't take the pill?
        Can I park here on Sundays? | Can I park here except on Sundays?
        """,
    "number": """
        What is 15% of 80? | What is 18% of 80?
        How many feet are in 3 miles? | How many feet are in 5 miles?
        Who was the 16th president of the United States? | Who was the 26th president of the United States?
        What is the square root of 144? | What is the square root of 169?
        How long do I boil 2 eggs? | How long do I boil 12 eggs?
        Convert 100 dollars to euros | Convert 1000 dollars to euros
        What happened in World War I? | What happened in World War II?
        Explain Python 2 string handling | Explain Python 3 string handling
        What is the 5th element of the periodic table? | What is the 15th element of the periodic table?
        How do I cook rice for two people? | How do I cook rice for ten people?
        What is 7 times 8? | What is 7 times 9?
        Summarize chapter 3 of Moby Dick | Summarize chapter 4 of Moby Dick
        What is HTTP error 403? | What is HTTP error 404?
        Is 91 prime? | Is 97 prime?
        What is the atomic number 79? | What is the atomic number 97?
        How many calories are in one banana? | How many calories are in two bananas?
        Write a poem of 4 lines about rain | Write a poem of 8 lines about rain
        What does RFC 2616 say? | What does RFC 2161 say?
        Which is the second largest planet? | Which is the third largest planet?
        What is 1/2 plus 1/3? | What is 1/2 plus 1/4?
        Compute 3 + 4 | Compute 3 - 4
        Compute 12 / 4 | Compute 12 * 4
        What is 2.5 kg in grams? | What is 25 kg in grams?
        Sort the list 3, 1, 2 | Sort the list 1, 3, 5
        What is -5 plus 3? | What is 5 plus 3?
        """,
    "name": """
        Who wrote Hamlet? | Who wrote Macbeth?
        What is the capital of Australia? | What is the capital of Austria?
        How tall is Mount Everest? | How tall is Mount Kilimanjaro?
        When was Mozart born? | When was Beethoven born?
        What language is spoken in Brazil? | What language is spoken in Belgium?
        Tell me about Paris, France | Tell me about Paris, Texas
        Who is George Bush senior? | Who is George Bush junior?
        How do I install Firefox? | How do I install Chrome?
        What is the currency of Niger? | What is the currency of Nigeria?
        Who founded Apple? | Who founded Microsoft?
        What is the population of North Korea? | What is the population of South Korea?
        Explain the git rebase command | Explain the git merge command
        Did Anna call Peter? | Did Peter call Anna?
        Did the dog bite the man? | Did the man bite the dog?
        Is Spain larger than Italy? | Is Italy larger than Spain?
        Who is the king of Sweden? | Who is the king of Norway?
        What does the Treaty of Versailles say? | What does the Treaty of Vienna say?
        What is Java used for? | What is JavaScript used for?
        What is the C language? | What is the C++ language?
        What is the side effect of ibuprofen? | What is the side effect of paracetamol?
        How do I get from Berlin to Munich? | How do I get from Munich to Berlin?
        Which teams has Messi played for? | Which teams has Ronaldo played for?
        What is the Mercury planet like? | What is mercury the metal like?
        Where is Georgia the country? | Where is Georgia the state?
        Who sang "Hello"? | Who sang "Help"?
        """,
    "unit": """
        How many kilometers is the Danube long? | How many miles is the Danube long?
        What is the boiling point of water in Celsius? | What is the boiling point of water in Fahrenheit?
        How many grams are in a cup of flour? | How many ounces are in a cup of flour?
        What is my age in days? | What is my age in months?
        How much is 5 GB in MB? | How much is 5 GB in KB?
        How fast is sound in m/s? | How fast is sound in km/h?
        How many milliliters of water per day? | How many liters of water per day?
        Convert 10 USD to EUR | Convert 10 EUR to USD
        How many seconds are in a week? | How many seconds are in a month?
        What is 5 mg in g? | What is 5 Mg in g?
        How many bits are in a word? | How many bytes are in a word?
        How long is the flight in hours? | How long is the flight in minutes?
        """,
    "date": """
        What happened on 4 July 1776? | What happened on 14 July 1789?
        Who won the election in 2016? | Who won the election in 2020?
        What was the weather in London in May? | What was the weather in London in March?
        Who is the president of France? | Who was the president of France?
        What will the tax rate be next year? | What was the tax rate last year?
        Which films came out in the 1980s? | Which films came out in the 1990s?
        Is the shop open on Monday? | Is the shop open on Tuesday?
        What happened before the French Revolution? | What happened after the French Revolution?
        What did people eat in the 18th century? | What did people eat in the 19th century?
        When does winter begin? | When does winter end?
        Plan a day in Rome in the morning | Plan a day in Rome in the evening
        What happened in 500 BC? | What happened in 500 AD?
        What did Einstein publish in 1905? | What did Einstein publish in 1915?
        When is Easter in 2025? | When is Easter in 2026?
        """,
    "comparative": """
        What is the largest ocean? | What is the smallest ocean?
        Which is the best laptop? | Which is the worst laptop?
        Is gold heavier than lead? | Is gold lighter than lead?
        Which car is cheaper? | Which car is more expensive?
        How do I gain weight? | How do I lose weight?
        How do I increase contrast? | How do I decrease contrast?
        What is the highest mountain? | What is the high mountain?
        Name the first man on the moon | Name the last man on the moon
        What are numbers greater than ten? | What are numbers less than ten?
        Which rivers flow north? | Which rivers flow south?
        What is the minimum wage? | What is the maximum wage?
        Name the most common allergies | Name the least common allergies
        Which has more protein, eggs or beef? | Which has less protein, eggs or beef?
        Is tea healthier than coffee? | Is coffee healthier than tea?
        What is the longest river in Africa? | What is the longest road in Africa?
        What are the advantages of solar power? | What are the disadvantages of solar power?
        Which dogs are hypoallergenic? | Which cats are hypoallergenic?
        How do I open a port? | How do I close a port?
        How to lock a file? | How to unlock a file?
        At most how many items fit? | At least how many items fit?
        """,
    "language": """
        Translate "house" into German | Translate "house" into French
        Translate good morning to Spanish | Translate good night to Spanish
        How do you say thanks in Japanese? | How do you say thanks in Chinese?
        Answer in English: what is love? | Answer in Italian: what is love?
        Translate from Dutch to English: huis | Translate from English to Dutch: huis
        Wie hoch ist der Eiffelturm? | Wie alt ist der Eiffelturm?
        Quelle est la capitale de la Suisse? | Quelle est la capitale de la Suède?
        ¿Cuántos habitantes tiene Madrid? | ¿Cuántos habitantes tiene Málaga?
        Ist Honig vegan? | Ist Honig nicht vegan?
        Write hello world in Python | Write hello world in Rust
        Write a regex for emails in JavaScript | Write a regex for emails in Perl
        東京の人口は？ | 大阪の人口は？
        Was kostet ein Brot? | Was kostet kein Brot?
        """,
    "role and word": """
        Can I take aspirin with alcohol? | Should I take aspirin with alcohol?
        How do I get to the airport? | How do I get from the airport?
        What is the cause of inflation? | What is the effect of inflation?
        Who teaches whom in the story? | Who taught whom in the story?
        How to import goods to Norway? | How to export goods to Norway?
        How do I borrow money from a friend? | How do I lend money to a friend?
        What is the mother of my wife called? | What is the mother of my husband called?
        How do I encrypt a file? | How do I decrypt a file?
        How do I push to git? | How do I pull from git?
        Which symptoms has the flu? | Which symptoms has a cold?
        How do I install the package? | How do I uninstall the package?
        Why do cats purr? | Why do cats hiss?
        Where do penguins live? | How do penguins live?
        When do bats sleep? | Where do bats sleep?
        Who invented the telephone? | When was the telephone invented?
        How many people live in Oslo? | How do people live in Oslo?
        What is a customs officer? | What is a custom officer?
        What are arms for? | What is an arm for?
        Is my cat allowed in the flat? | Is your cat allowed in the flat?
        Is he older than her? | Is she older than him?
        What is the difference between TCP and UDP? | What is the similarity between TCP and UDP?
        Explain supervised learning | Explain unsupervised learning
        Write a short story about a fox | Write a long story about a fox
        Write a formal letter to my landlord | Write an informal letter to my landlord
        Give me a recipe with chicken | Give me a recipe with chickpeas
        What does the heart do to the lungs? | What do the lungs do to the heart?
        Is a tomato a fruit or a vegetable? | Is a potato a fruit or a vegetable?
        Why do we yawn? | Why do we sneeze?
        How does a diesel engine work? | How does a petrol engine work?
        Sort a list ascending in Python | Sort a list descending in Python
        What is `a and b` in Python? | What is `a or b` in Python?
        What does x++ do? | What does ++x do?
        What does x = 1 mean? | What does x == 1 mean?
        What does `rm -r` do? | What does `rm -f` do?
        Is the glass half full? | Is the glass half empty?
        What is the upper limit? | What is the lower limit?
        How do I turn on the heating? | How do I turn off the heating?
        What is the left function of the brain? | What is the right function of the brain?
        All cats are mammals? | Some cats are mammals?
        Only children may enter? | Children may only enter?
        Explain it to a child: gravity | Explain it to an expert: gravity
        What is the plural of mouse? | What is the singular of mice?
        Who is taller, Tom or Ann? | Who is shorter, Tom or Ann?
        Which is safe: bleach and vinegar? | Which is safe: bleach and water?
        Is Pluto a planet? | Is Pluto a dog?
        """,
    "found while it was built": """
        What is a joke? | Tell me a joke
        What is a poem? | Give me a poem
        What is matter? | What is the matter?
        What is a point? | What is the point?
        Which bird sings? | What do birds sing?
        Who left? | Who is left?
        How do you say thanks in Dutch? | How do you say please in Dutch?
        How do you say thanks? | How do you say please?
        Hello in Japanese? | Please in Japanese?
        What is (3 + 4) * 2? | What is 3 + (4 * 2)?
        What is .5 + 1? | What is 5 + 1?
        What is 5! in maths? | What is 5 in maths?
        What is 5!? | What is 5?
        What is .NET? | What is net?
        What does 😀 mean? | What does 😂 mean?
        Let us eat, grandma: what does it mean? | Let us eat grandma: what does it mean?
        When was Robert born? | When was Roberts born?
        Does it help us? | Does it help US?
        How do I polish shoes? | How do I Polish shoes?
        How do you work? | How do I work?
        What is a-b? | What is a+b?
        Are fish oily? | Do fish oily?
        """,
}

_SAME = """
    What is the capital of France? | what is the capital of france
    What is the capital of France? | What's the capital of France?
    What is the capital of France? | Tell me the capital of France
    What is the capital of France? | Please tell me what the capital of France is.
    What is the capital of France? | Can you tell me the capital of France?
    What is the capital of France? | France's capital is what?
    How do I boil an egg? | How can I boil an egg?
    How do I boil an egg? | How to boil an egg
    How do I boil an egg? | What is the best way to boil an egg?
    How do I boil an egg? | How does one boil eggs?
    How do I boil an egg? | Could you please explain how to boil an egg?
    Who wrote Hamlet? | Who was the author of Hamlet?
    Who wrote Hamlet? | Hi, who wrote Hamlet? Thanks!
    Why is the sky blue? | Can you explain why the sky is blue?
    Why is the sky blue? | What is the reason that the sky is blue?
    How many legs does a spider have? | How many legs do spiders have?
    What is photosynthesis? | Define photosynthesis
    What is photosynthesis? | What does photosynthesis mean?
    What is photosynthesis? | Explain photosynthesis
    What is photosynthesis? | I would like to know what photosynthesis is.
    Where is the Eiffel Tower? | Where is the Eiffel Tower located?
    Where is the Eiffel Tower? | Where can I find the Eiffel Tower?
    How tall is Mount Everest? | What is the height of Mount Everest?
    When did World War II end? | When was the end of World War II?
    How do I list files in Linux? | How can I list the files in Linux?
    List three planets | Please list 3 planets
    How far is the moon? | How far away is the moon?
    What is 2 + 2? | what's 2+2
    What is 2 + 2? | Calculate 2 + 2
    Give me a synonym for happy | What is a synonym for happy?
    Give an example of a metaphor | Give me an example of a metaphor, please
    Is a whale a mammal? | Are whales mammals?
    Does water conduct electricity? | Hey, does water conduct electricity?
    How long does it take to hard-boil an egg? | How long do I need to hard boil an egg?
    What are the primary colors? | What are the primary colours?
    What are the primary colors? | Which are the primary colours?
    How do you spell necessary? | How is necessary spelled?
    What is the chemical symbol for gold? | What is gold's chemical symbol?
    What is the speed of light? | How fast is light?
    Who painted the Mona Lisa? | Who is the painter of the Mona Lisa?
    """


def _pairs(text: str) -> list[tuple[str, str]]:
    lines = [line.strip() for line in text.strip().splitlines()]
    return [(left, right) for left, _, right in (line.partition(" | ") for line in lines)]


DIFFERENT: dict[str, list[tuple[str, str]]] = {kind: _pairs(text) for kind, text in _DIFFERENT.items()}
"""Mean something else, though nearly the same words."""
SAME: list[tuple[str, str]] = _pairs(_SAME)
"""Mean the same, in other words."""
