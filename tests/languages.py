"""A sentence in each of many languages and scripts."""

SENTENCES = {
    "english": "The dog reads a book.",
    "russian": "Собака читает книгу.",
    "arabic": "الكلب يقرأ كتابا.",
    "greek": "Ο σκύλος διαβάζει ένα βιβλίο.",
    "hindi": "कुत्ता एक किताब पढ़ता है।",
    "persian": "سگ کتاب می‌خواند.",
    "korean": "개가 책을 읽는다.",
    "chinese": "那只狗在读一本书。",
    "japanese": "犬が本を読んでいます。",
    "thai": "สุนัขกำลังอ่านหนังสือ",
    "burmese": "ခွေးက စာအုပ်ဖတ်နေတယ်။",
    "tibetan": "ཁྱི་དེས་དེབ་ཀློག་གི་འདུག",
}
