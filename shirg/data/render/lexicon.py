"""The closed vocabulary of rendered pages: labels, items, categories, and the templates of the questions.

Labels come from here and are shared by all splits; values (numbers, dates, codes, names) are open and come
from `shirg.data.render.values`.
"""

from __future__ import annotations

import re


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FIELDS: dict[str, str] = {
    **dict.fromkeys(("Amount", "Balance", "Deposit", "Fee", "Rent", "Salary", "Discount", "Bonus", "Fine"), "money"),
    **dict.fromkeys(("Date", "Due Date", "Issued", "Expires", "Born", "Arrival", "Departure"), "date"),
    **dict.fromkeys(
        ("Name", "Customer", "Manager", "Doctor", "Teacher", "Contact", "Owner", "Agent", "Driver"), "person"
    ),
    **dict.fromkeys(("Company", "Bank", "School", "Employer", "Seller", "Hotel"), "company"),
    **dict.fromkeys(("City", "Village", "Harbour", "District"), "town"),
    **dict.fromkeys(
        ("Invoice", "Account", "Reference", "Permit", "Policy", "Case", "Serial", "Model", "Badge"), "code"
    ),
    **dict.fromkeys(("Phone", "Fax", "Mobile"), "phone"),
    **dict.fromkeys(("Age", "Room", "Pages", "Floor", "Gate", "Seat", "Desk"), "small"),
    **dict.fromkeys(("Weight", "Load"), "weight"),
    **dict.fromkeys(("Rate", "Margin"), "percent"),
    **dict.fromkeys(("Time", "Opens", "Closes"), "time"),
}
"""Field name -> type of its value (a method of `Values`)."""

SUMS = ("Subtotal", "Tax", "Total", "Cash")

OPTIONS: dict[str, tuple[str, ...]] = {
    "Status": ("Open", "Paid", "Late", "Draft"),
    "Method": ("Cash", "Card", "Check", "Wire"),
    "Priority": ("Low", "Medium", "High"),
    "Delivery": ("Post", "Courier", "Pickup"),
}
"""Label of a group of tick boxes -> its options."""

ITEMS = _words(
    "Rice Bread Milk Eggs Butter Cheese Apples Bananas Oranges Grapes Tomatoes Onions Carrots Potatoes Salt Sugar "
    "Flour Pasta Beans Coffee Tea Juice Water Soap Paper Pencil Candle Honey Yogurt Chicken Fish Beef Soup Salad "
    "Pizza Burger Cake Cookies Nuts Olives"
)
COUNTRIES = _words(
    "Peru Chile Brazil Mexico Canada Spain France Italy Greece Turkey Egypt Kenya Ghana India China Japan Korea Nepal "
    "Poland Norway Sweden Finland Ireland Austria Cuba Morocco Vietnam Iran"
)
DEPARTMENTS = _words("Sales Finance Design Support Legal Research Garden Kitchen Library Clinic Security Transport")
SPORTS = _words("Tennis Hockey Rugby Golf Chess Rowing Boxing Cycling Skiing Judo")
ENERGY = _words("Solar Wind Coal Gas Oil Hydro Nuclear Biomass")
ANIMALS = _words("Dogs Cats Horses Sheep Goats Ducks Bees Rabbits Cows Pigs")
MONTHS = _words("January February March April May June July August September October November December")
SHORT_MONTHS = tuple(month[:3] for month in MONTHS)
WEEKDAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
YEARS = tuple(str(year) for year in range(1996, 2026))

CATEGORIES: dict[str, tuple[str, ...]] = {
    "Item": ITEMS,
    "Country": COUNTRIES,
    "Department": DEPARTMENTS,
    "Sport": SPORTS,
    "Energy": ENERGY,
    "Animal": ANIMALS,
    "Month": MONTHS,
    "Day": WEEKDAYS,
}
"""Header of a column of row names, or topic of a chart -> its members."""

COLUMNS: dict[str, str] = {
    **dict.fromkeys(("Price", "Cost", "Budget", "Profit"), "money"),
    **dict.fromkeys(("Units", "Stock", "Orders", "Visits", "Points"), "integer"),
    **dict.fromkeys(("Score", "Hours", "Length"), "decimal"),
    **dict.fromkeys(("Growth", "Share"), "percent"),
    **dict.fromkeys(("Code",), "code"),
    **dict.fromkeys(("Updated",), "date"),
    **dict.fromkeys(("Leader",), "surname"),
    **dict.fromkeys(("Capital",), "town"),
}
"""Column header -> type of its values."""

SERIES = ("North", "South", "East", "West", "Import", "Export", "Men", "Women", "Plan", "Actual")

TITLE_FIRST = ("Annual", "Monthly", "Regional", "General", "Public", "Internal", "National", "Final")
TITLE_LAST = ("Report", "Summary", "Survey", "Record", "Notice", "Form", "Statement", "Overview")

UNITS = ("kg",)

FILLER = _words(
    "the of and to in is for on with as by at from this that will be are not or an have has all any each must our "
    "your their this please note before after within days work order goods service terms under above below given "
    "made sent kept used found shown local early later small large clear good next last first between during "
    "against about when where which such other same only also more most than then here there again often never always "
    "people office letter meeting market river bridge station window table house street morning "
    "evening winter summer rules notes copy page line list part side hand place point group level thank you"
)
"""Plain words of running text: printed, never asked about."""

QUESTION_TEMPLATES: dict[str, tuple[str, ...]] = {
    "field": ("What is the {label}?", "{label}?", "Read the {label}.", "What {label} is given?"),
    "total": ("What is the {label}?", "{label}?", "How much is the {label}?"),
    "check": ("Which {label} is checked?", "What is the {label}?"),
    "title": ("What is the title?", "Read the title."),
    "company": ("Who is it from?", "What name is at the top?"),
    "item_price": ("What is the price of {item}?", "How much is {item}?", "{item} price?"),
    "item_count": ("How many {item}?", "What is the quantity of {item}?"),
    "cell": ("What is the {column} of {row}?", "{column} of {row}?", "Read the {column} for {row}."),
    "table_label": ("Which has the {extreme} {column}?", "Which {column} is {extreme}?"),
    "chart_value": ("What is the value of {label}?", "Value of {label}?", "How much is {label}?"),
    "chart_axis": ("What is the value of {label}?", "Value of {label}?", "How much is {label}?"),
    "chart_series": ("What is the {series} value of {label}?", "{series} of {label}?", "Read {series} for {label}."),
    "chart_label": ("Which has the {extreme} value?", "Which value is {extreme}?"),
    "chart_lookup": ("Which has the value {value}?", "What is at {value}?"),
    "pie_share": ("What is the share of {label}?", "Share of {label}?", "What percent is {label}?"),
    "pie_label": ("Which has the {extreme} share?", "Which share is {extreme}?"),
}
"""Kind of question -> its wordings. Slots hold label words, except `{value}`, which holds a value of the page."""

EXTREMES = ("highest", "lowest")


def label_words() -> list[str]:
    """All words, sorted, that pages use as labels, headers, items, categories, units and closed answers."""
    groups = (FIELDS, SUMS, OPTIONS, *OPTIONS.values(), CATEGORIES, *CATEGORIES.values(), SHORT_MONTHS, COLUMNS, SERIES)
    groups += (TITLE_FIRST, TITLE_LAST, UNITS, YEARS)
    return sorted({word for group in groups for name in group for word in name.split()})


QUESTION_WORDS: tuple[str, ...] = tuple(
    sorted(
        {
            word
            for wordings in QUESTION_TEMPLATES.values()
            for text in wordings
            for word in re.findall(r"(?<!\{)\b[A-Za-z]+\b", text)
        }
        | set(EXTREMES)
    )
)
"""The words of the templates themselves, slots left out, punctuation removed."""
