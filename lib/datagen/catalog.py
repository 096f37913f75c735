"""The small world that the generator draws from: countries, merchants, prices.

All of it is made up or rounded; only the ISO codes are facts.
"""

from typing import NamedTuple


class Country(NamedTuple):
    """A place where cards are used."""

    code: str  # ISO 3166-1 alpha-2
    currency: str  # ISO 4217
    utc_hours: float  # standard time; daylight saving is left out
    per_dollar: float  # units of the currency for one US dollar, roughly
    homes: float  # weight among the accounts' homes; 0: only ever visited
    merchants: list[str]  # one for each of PRICES


PRICES = (8, 12, 22, 30, 42, 52, 62, 80)
"""A usual price in US dollars for coffee, streaming, a pharmacy, a restaurant,
groceries, fuel, clothes and electronics."""

HOURS = (2, 0, 0, 0, 0, 0, 1, 4, 7, 6, 6, 7, 9, 8, 6, 6, 7, 9, 10, 9, 7, 5, 4, 3)
"""How busy each hour of the local day is. Nobody shops from 1 to 6: everyone sleeps,
and every account has a gap in which to travel."""

WHOLE_UNITS = frozenset({"JPY"})
"""Currencies without a minor unit."""

BURST_MERCHANTS = ["Gift Card Depot", "QuickPay Top-up", "App Credits", "Prepaid 24"]
GEO_MERCHANTS = ["Crypto Exchange Wire", "Duty Free Electronics", "Currency Desk"]
LUXURY_MERCHANTS = ["LuxeWatches Online", "Maison Joaillerie", "Grand Auction House"]


def _country(
    code: str,
    currency: str,
    utc_hours: float,
    per_dollar: float,
    homes: float,
    merchants: str,
) -> Country:
    names = merchants.split("|")
    return Country(code, currency, utc_hours, per_dollar, homes, names)


COUNTRIES = (
    _country(
        *("US", "USD", -6, 1.0, 14),
        "Starbucks|Spotify|CVS Pharmacy|Chipotle|Whole Foods Market|Gulf Gas Station"
        "|Target|Best Buy",
    ),
    _country(
        *("CA", "CAD", -5, 1.37, 2),
        "Tim Hortons|Crave|Shoppers Drug Mart|Harvey's|Loblaws|Petro-Canada|Roots"
        "|Visions Electronics",
    ),
    _country(
        *("GB", "GBP", 0, 0.79, 3),
        "Costa Coffee|NOW TV|Boots|Nando's|Sainsbury's|BP|Marks & Spencer|Currys",
    ),
    _country(
        *("DE", "EUR", 1, 0.92, 3),
        "Café Einstein|RTL+|dm-drogerie markt|Vapiano|REWE|Aral|Peek & Cloppenburg"
        "|MediaMarkt",
    ),
    _country(
        *("FR", "EUR", 1, 0.92, 2),
        "Café de Flore|Deezer|Pharmacie Lafayette|Flunch|Carrefour|TotalEnergies"
        "|Galeries Lafayette|Fnac",
    ),
    _country(
        *("ES", "EUR", 1, 0.92, 2),
        "Cafetería Ñam|Movistar Plus+|Farmacia Sol|La Tagliatella|Mercadona|Repsol"
        "|El Corte Inglés|PcComponentes",
    ),
    _country(
        *("BR", "BRL", -3, 5.4, 2),
        "Fran's Café|Globoplay|Droga Raia|Outback|Pão de Açúcar|Posto Ipiranga|Renner"
        "|Magazine Luiza",
    ),
    _country(
        *("MX", "MXN", -6, 18.0, 2),
        "Café Punta del Cielo|Claro video|Farmacias Guadalajara|Vips|Soriana|Pemex"
        "|Liverpool|Elektra",
    ),
    _country(
        *("IN", "INR", 5.5, 84.0, 2),
        "Café Coffee Day|JioSaavn|Apollo Pharmacy|Haldiram's|Big Bazaar|Indian Oil"
        "|Fabindia|Croma",
    ),
    _country(
        *("JP", "JPY", 9, 150.0, 2),
        "ドトール|ニコニコ|マツモトキヨシ|吉野家|イオン|ENEOS|ユニクロ|ヨドバシカメラ",
    ),
    _country(
        *("AU", "AUD", 10, 1.52, 1),
        "Gloria Jean's|Stan|Chemist Warehouse|Grill'd|Woolworths|Ampol|Myer|JB Hi-Fi",
    ),
    _country(
        *("RU", "RUB", 3, 92.0, 0),
        "Шоколадница|Иви|Аптека 36,6|Теремок|Пятёрочка|Лукойл|ЦУМ|М.Видео",
    ),
    _country(
        *("VN", "VND", 7, 25_400.0, 0),
        "Highlands Coffee|FPT Play|Pharmacity|Phở 24|WinMart|Petrolimex|Canifa"
        "|Thế Giới Di Động",
    ),
    _country(
        *("TH", "THB", 7, 35.0, 0),
        "Café Amazon|TrueID|Fascino|MK Restaurants|Big C|PTT|Jaspal|Power Buy",
    ),
    _country(
        *("TR", "TRY", 3, 34.0, 0),
        "Kahve Dünyası|BluTV|Eczane Şifa|Köfteci Yusuf|Migros|Petrol Ofisi|LC Waikiki"
        "|Teknosa",
    ),
    _country(
        *("AE", "AED", 4, 3.67, 0),
        "Tim's Majlis|StarzPlay|Life Pharmacy|Al Safadi|Lulu|ADNOC|Splash|Sharaf DG",
    ),
)
