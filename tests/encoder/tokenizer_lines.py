"""Lines of text, as bytes, on which tokenizers tend to differ.  SPDX-License-Identifier: MIT"""
import random
import unicodedata

SENTENCES = """
The quick brown fox jumps over the lazy dog.
Don't stop — it's 5 o'clock somewhere, isn't it? (Yes!) "Quoted" 'single' “curly” ‘curly’ «guillemets» … & co.
E-mail: someone@example.com, http://example.com/a_b?c=d&e=%20#f, +49 (0)30 123-456, $1,234.56, 50% off, C++, C#
Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich; GROẞE STRAẞE, Straße
Voix ambiguë d’un cœur qui, au zéphyr, préfère les jattes de kiwis. Où est-ce que ça s’arrête ?
El pingüino Wenceslao hizo kilómetros bajo exhaustiva lluvia y frío; ¿añoraba a su querido cachorro? ¡Sí!
Příliš žluťoučký kůň úpěl ďábelské ódy. Zażółć gęślą jaźń. Árvíztűrő tükörfúrógép
Pijamalı hasta yağız şoföre çabucak güvendi. İSTANBUL'DA ILIK IŞIK, Iğdır, İzmir
Съешь же ещё этих мягких французских булок, да выпей чаю. Ёлка, Йод, ЩУКА
Ξεσκεπάζω την ψυχοφθόρα σου βδελυγμία. ΟΔΥΣΣΕΥΣ ΌΣΟΣ ς Σ σ
עטלף אבק נס דרך מזגן שהתפוצץ כי חם. שָׁלוֹם עֲלֵיכֶם ״גרשיים״
نص حكيم له سر قاطع وذو شأن عظيم مكتوب على ثوب أخضر ومغلف بجلد أزرق. العَرَبِيَّة؟ ،؛
ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण का सर्वनाश करने वाले विष्णुवतार भगवान श्रीराम। क़ ख़ ड़
আমি বাংলায় গান গাই। কো ড় ঢ় য়
தமிழ் மொழி மிகவும் பழமையானது. கொ ஸ்ரீ
తెలుగు భాష ಕನ್ನಡ ಭಾಷೆ മലയാളം ഭാഷ සිංහල භාෂාව
เป็นมนุษย์สุดประเสริฐเลิศคุณค่า กว่าบรรดาฝูงสัตว์เดรัจฉาน ພາສາລາວ ភាសាខ្មែរ မြန်မာဘာသာ
いろはにほへと ちりぬるを、わかよたれそ。カタカナ ガギグゲゴ ガギグゲゴ ﾊﾝｶｸ ﾊﾞﾊﾟ 「東京」へ行く
我能吞下玻璃而不伤身体。中文English混排，１２３ＡＢＣ！〇々㐀𠀀𪜀豈 ⼀ ㍿ ㊙
키스의 고유조건은 입술끼리 만나야 하고 특별한 기술은 필요치 않다. 한글 ᄒᆞᆫ글 각ᆨ
დედაენა ՀԱՅԵՐԵՆ հայերեն ᏣᎳᎩ ꮳꮃꭹ ⰀⰁⰂ ⲀⲂ Ⴀ Ა አማርኛ ቋንቋ፡፡ བོད་ཡིག། ᠮᠣᠩᠭᠣᠯ
Tiếng Việt: Con sói già quặn mình, Đường phố Hà Nội đẹp lắm ạ, ưỡn ẹo
Þjóðverjar ætluðu að éta ŋ œ ø å ß ł đ ħ ı ĸ ſ ǆ ǅ Ǆ ﬁ ﬂ ﬀ ĳ ŉ
x² + y³ ≤ √z ± ∞ ∑∏∫ ½ ¼ Ⅷ ⅷ ① ⓐ ㎏ № ℃ K Å Ω µ μ ° º ª
😀 😃😄 👍🏽 👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇫🇷 ☺️ ☺ ❤️‍🔥 1️⃣ ™️ ©®
[MASK] [CLS] [SEP] [UNK] [PAD] [mask] [Mask] [ MASK ] [MASK]s un[MASK]ed [[MASK]] [MASK][MASK][SEP]x[CLS]
[MAS\u200dK] [MA\u0301SK] ［MASK］ [MASK [UNK ]MASK[ [PAD][PAD] "[SEP]" ([CLS])
Zero\u200bwidth\u200cjoin\u200der\ufeff soft\u00adhyphen word\u2060joiner\u200e\u200f rtl\u202eoverride\u202c
tab\there\x0bvt\x0cff\x1cfs\x85nel\u00a0nbsp\u1680ogham\u2003em\u2028ls\u2029ps\u202fnn\u205fmm\u3000ideo\x00nul\x7fdel
a\u0301 e\u0308\u0304 o\u031b\u0323 \u0301alone x\u0489 n\u0303o\u0302\u0301 q\u0323\u0307 q\u0307\u0323 \u0345 ᾳ ᾼ
\u302e한\u302f \u302e한\u302f\u0301 x\u302f\u302e
U+FFFD \ufffd in \ufffdwo\ufffdrd, private \ue000x\uf8ff, unassigned \u0378 \U000e0fff, noncharacter \ufdd0 \U0010ffff
supercalifragilisticexpialidocious pneumonoultramicroscopicsilicovolcanoconiosis antidisestablishmentarianism
##ing ## # ##a a##b ##[MASK]## ing## __init__
snake_case camelCase CONST_VALUE --flag -x ... ??? !!! ~~~ `code` ^_^ |a|b|
""".strip().split("\n")

SPECIAL = ["[MASK]", "[CLS]", "[SEP]", "[UNK]", "[PAD]", "[mask]", "[MASK", "MASK]"]
INVISIBLE = "\u200b\u200c\u200d\u200e\u2060\ufeff\u00ad" + \
    "\x00\x01\x08\x0b\x0c\x1b\x7f\x80\x85\x9f\u061c\u180e\u2028\ufffd\ufff9"
EMOJI = "😀🤣👍❤☺⚽🏳🌈👩👧🇩🇫🏽🏿️\u200d⃣✊🫠🪿1#"
ACCENTS = "\u0300\u0301\u0302\u0303\u0308\u030a\u0323\u0327\u0328\u0338\u0345\u0489\u1dc4\u20d7\ufe20\u302e"
PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~¡§¶·¿‐–—‘’“”†•…‰‹›⁂€™←≠■「」、。！？؟،।፡᙮៖"


def decode_escapes(line):
    return line.encode("latin-1", "backslashreplace").decode("unicode_escape") if "\\" in line else line


def random_text(rng, alphabet, low, high):
    return "".join(rng.choice(alphabet) for _ in range(rng.randint(low, high)))


def any_character(rng):
    while True:
        c = rng.choice([rng.randrange(0x250), rng.randrange(0x3000), rng.randrange(0x10000), rng.randrange(0x20000),
                        rng.randrange(0x110000)])
        if not 0xD800 <= c <= 0xDFFF and c not in (10,):
            return chr(c)


def words_of(lines):
    return [word for line in lines for word in line.split()]


def unicode_lines(rng, words, vocabulary):
    """name → list of str"""
    letters = "aábcdeéèfgzßøłñüÅΣяжщあア한中文أبअ"
    pieces = [w[2:] if w.startswith("##") else w for w in vocabulary]
    mixed = lambda: " ".join(rng.choice(words) for _ in range(rng.randint(1, 20)))
    lines = {
        "sentences in many languages": list(SENTENCES_DECODED),
        "the same composed (NFC), decomposed (NFD), NFKC, NFKD":
            [unicodedata.normalize(form, s) for form in ("NFC", "NFD", "NFKC", "NFKD") for s in SENTENCES_DECODED],
        "upper, lower, title case and reversed":
            [f(s) for f in (str.upper, str.lower, str.title, lambda s: s[::-1]) for s in SENTENCES_DECODED],
        "words of many languages, mixed": [mixed() for _ in range(400)],
        "pieces of the vocabulary, glued": ["".join(rng.choice(pieces) for _ in range(rng.randint(1, 8))) + " " +
                                            " ".join(rng.choice(vocabulary) for _ in range(rng.randint(0, 6)))
                                            for _ in range(400)],
        "random characters of all of Unicode":
            ["".join(any_character(rng) for _ in range(rng.randint(1, 60))) for _ in range(300)],
        "accents upon accents": [random_text(rng, letters + 2 * ACCENTS + " ", 1, 40) for _ in range(200)],
        "emoji": [random_text(rng, EMOJI + "a ", 1, 30) for _ in range(100)],
        "punctuation": [random_text(rng, PUNCTUATION + "ab1 ", 1, 40) for _ in range(200)],
        "control and zero-width characters": ["".join(rng.choice([rng.choice(INVISIBLE), rng.choice(letters),
                                                                  rng.choice(words)])
                                                      for _ in range(rng.randint(1, 25))) for _ in range(200)],
        "special tokens inside text": ["".join(rng.choice([rng.choice(SPECIAL), rng.choice(words), " ", "\u0301",
                                                           rng.choice(INVISIBLE), rng.choice(PUNCTUATION)])
                                               for _ in range(rng.randint(1, 15))) for _ in range(200)],
        "words around 100 characters": [f"a {random_text(rng, chosen, n, n)} b" for chosen in ("a", "ab", "aé",
                                        "e\u0301", "a\u200b", "я", "한", "1") for n in (49, 50, 51, 99, 100, 101, 102,
                                                                                     150, 1000)],
        "long texts, cut at 256 tokens": [" ".join(rng.choice(words) for _ in range(rng.randint(60, 900)))
                                          for _ in range(60)] + ["a" * 5000, "a " * 254, "a " * 255, "! " * 300],
        "empty and blank": ["", " ", "\t", "\u3000", "\x00", "\u0301", "\u200b", "[SEP]"],
    }
    return lines


SENTENCES_DECODED = [decode_escapes(s) for s in SENTENCES]


def damaged_lines(rng, words):
    """Bytes that are not UTF-8."""
    lines = [b"\xff", b"\xc3", b"a\xc3", b"\xc3(", b"\xe2\x82", b"\xe2\x82a", b"\xf0\x9f\x98", b"\xf0\x9f\x98b",
             b"\xed\xa0\x80x", b"\xc0\x80", b"\xe0\x80\x80", b"\xf5\x80\x80\x80", b"\xf4\x90\x80\x80", b"\x80\x80z",
             b"caf\xe9 na\xefve", b"[MA\xffSK] [MASK]\xff"]
    for _ in range(200):
        line = bytearray(" ".join(rng.choice(words) for _ in range(rng.randint(1, 12))).encode())
        for _ in range(rng.randint(1, 6)):
            at = rng.randrange(len(line))
            if rng.random() < 0.5:
                line[at] = rng.randrange(128, 256)
            else:
                del line[at:at + rng.randint(1, 2)]
            if not line:
                line = bytearray(b"\xf0")
        lines.append(bytes(line).replace(b"\n", b"?"))
    for _ in range(100):
        lines.append(bytes(rng.randrange(256) for _ in range(rng.randint(1, 60))).replace(b"\n", b"?"))
    return lines


def every_code_point():
    """Each code point alone, between letters, and with a mark on either side; 48 to a line."""
    points = [chr(c) for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF and c != 10]
    for pattern in ("{}", "b{}d", "{0}\u302e \u302e{0}"):
        for i in range(0, len(points), 48):
            yield " ".join(pattern.format(c) for c in points[i:i + 48])


def all_lines(vocabulary, seed=20240607):
    """name → list of bytes"""
    rng = random.Random(seed)
    words = words_of(SENTENCES_DECODED)
    named = {name: [line.replace("\n", " ").encode("utf-8") for line in lines]
             for name, lines in unicode_lines(rng, words, vocabulary).items()}
    named["invalid UTF-8"] = damaged_lines(rng, words)
    return named
