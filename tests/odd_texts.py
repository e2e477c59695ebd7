"""Short texts that tokenizers may cut in odd places."""

TEXTS = [
    "",
    "hello world",
    "  hello\n\n\thell ",
    "1234567 12 123",
    "I'll don't HE'LL",
    "naïve 日本語 🦎\u200d",
    "e\u0301 zo\u0308",
    "a-b_c==d;;\r\n",
]
