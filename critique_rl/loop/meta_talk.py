"""Tells whether an answer talks about how it came to be: about a critique, a hint, or an answer before it.

Owns: the phrases, by language. Under the bare prompt nobody has criticised anything, so such an answer must not be
imitated. A word alone is no sign ("attempt to divide", "feedback loop"): a phrase has to point at the exchange.
Must not know: refinements, critics. Every pattern is bounded, so that long text costs time in proportion.
"""

from __future__ import annotations

import re
import unicodedata

_S = r"\s{1,4}"
_ADVICE = (
    r"(?:critiques?|criticisms?|feedback|hints?|advice|suggestions?|directives?|instructor|reviewer|critic|remarks?)"
)
# Feedback and critique are also subjects of their own.
_SUBJECT = (
    rf"(?!{_S}(?:of\b|loops?\b|control|gain|paths?\b|signals?\b|resist|amplif|systems?\b|networks?\b|mechanism|inhibit"
    r"|circuit|coefficient|equation|polynomial|shift|vertex|arc|edge|delay|factor|law))"
)
_ENGLISH = re.compile(
    rf"\b(?:following|according{_S}to|based{_S}on|as{_S}per|per|thanks{_S}to|given|considering|addressing|applying"
    rf"|incorporating|using|with|as{_S}suggested{_S}by){_S}(?:the|this|that|your|these|those)"
    rf"(?:{_S}(?:above|given|provided|previous|earlier))?{_S}{_ADVICE}\b{_SUBJECT}"
    rf"|\b(?:the|this|that|your){_S}{_ADVICE}{_S}(?:above|(?:i{_S})?(?:was{_S})?(?:given|provided|received)|says|said|suggests"
    rf"|suggested|points{_S}out|pointed{_S}out|notes|noted|tells|told|states|stated|mentions|mentioned|(?:is|was){_S}right)\b"
    rf"|\byour{_S}(?:critique|criticism|feedback|advice|hint|correction)\b"
    rf"|\b(?:my|your){_S}(?:(?:previous|earlier|prior|first|initial|original|last|wrong|incorrect|mistaken|failed)"
    rf"{_S}){{1,2}}(?:attempts?|answers?|solutions?|responses?|tr(?:y|ies)|submissions?|mistakes?|calculations?)\b"
    rf"|\b(?:previous|earlier|prior|failed){_S}(?:wrong{_S}|incorrect{_S})?(?:attempts?|submissions?)\b(?!{_S}(?:to|at)\b)"
    rf"|\b(?:as|like){_S}(?:you|the{_S}(?:critic|reviewer|teacher)){_S}"
    rf"(?:said|suggested|noted|mentioned|advised|pointed{_S}out|told)\b"
    rf"|\byou{_S}(?:pointed{_S}out|told{_S}me|corrected{_S}me)\b|\bi{_S}(?:was|have{_S}been){_S}(?:told|advised|corrected)\b"
    rf"|\b(?:here{_S}is|here's|this{_S}is){_S}(?:the|my|an?){_S}(?:corrected|revised|improved|updated)"
    rf"{_S}(?:answer|solution|attempt|response|version)\b"
    rf"|(?:^|\n)\W{{0,4}}(?:corrected|revised|improved){_S}(?:answer|solution|attempt|response)\b"
    rf"|\b(?:given|provided|partial){_S}solution{_S}(?:above|begins|breaks{_S}off)\b"
)
_GERMAN = re.compile(
    rf"\b(?:laut|gem\u00e4\u00df|nach|dank|entsprechend|aufgrund){_S}(?:der|dem|den|des|deiner|deinem|ihrer|ihrem|dieser|diesem)"
    rf"{_S}(?:kritik|r\u00fcckmeldung|feedbacks?|hinweis(?:e|en|es)?|ratschlags?|tipps?)\b"
    rf"|\b(?:meine?[mnrs]?|deine?[mnrs]?|ihre?[mnrs]?){_S}(?:vorherige|fr\u00fchere|erste|falsche|urspr\u00fcngliche|letzte)[mnrs]?"
    rf"{_S}(?:versuch|antwort|l\u00f6sung|rechnung)\b"
    rf"|\b(?:vorherige|fr\u00fchere)[mnrs]?{_S}(?:versuch|antwort)\b"
)
_FRENCH = re.compile(
    rf"\b(?:selon|d['\u2019]apr\u00e8s|suite{_S}\u00e0|gr\u00e2ce{_S}\u00e0|suivant|conform\u00e9ment{_S}\u00e0){_S}"
    rf"(?:(?:la|le|les|cette|ce|ces|votre|vos|ta|ton|tes){_S}|l['\u2019])"
    r"(?:critiques?|remarques?|commentaires?|conseils?|retours?|indications?)\b"
    rf"|\b(?:ma|mon|votre|ta|ton){_S}(?:r\u00e9ponse|tentative|solution|essai)"
    rf"{_S}(?:pr\u00e9c\u00e9dente?|ant\u00e9rieure?|initiale?|erron\u00e9e?)\b"
    rf"|\btentative{_S}pr\u00e9c\u00e9dente\b"
)
_SPANISH = re.compile(
    rf"\b(?:seg\u00fan|gracias{_S}a|siguiendo|de{_S}acuerdo{_S}con|con{_S}base{_S}en){_S}(?:la|el|las|los|esta|este|tu|su){_S}"
    r"(?:cr\u00edticas?|comentarios?|retroalimentaci\u00f3n|sugerencias?|consejos?|indicaci(?:\u00f3n|ones)|pistas?)\b"
    rf"|\b(?:mi|tu|su){_S}(?:respuesta|soluci\u00f3n|intento){_S}(?:anterior|previ[ao]|inicial|incorrect[ao])\b"
    rf"|\bintento{_S}anterior\b"
)
_CHINESE = re.compile(
    "(?:\u6839\u636e|\u6309\u7167|\u4f9d\u7167)(?:\u4f60\u7684|\u60a8\u7684|\u4e0a\u8ff0|\u4ee5\u4e0a|\u8be5|\u8fd9\u4e2a)?"
    "(?:\u6279\u8bc4|\u53cd\u9988|\u8bc4\u8bed|\u5efa\u8bae|\u63d0\u793a|\u610f\u89c1)"
    "|(?:\u4e4b\u524d|\u4e0a\u6b21|\u5148\u524d|\u4e0a\u4e00\u6b21|\u524d\u4e00\u6b21)\u7684?(?:\u5c1d\u8bd5|\u56de\u7b54|\u89e3\u7b54)"
)
_LANGUAGES = (_ENGLISH, _GERMAN, _FRENCH, _SPANISH, _CHINESE)
_TOPICS = re.compile(
    r"attempt|feedback|criti|hint|advice|suggest|submission|remark|hinweis|versuch|r\u00fcckmeldung|tipp|tentative"
    r"|remarque|conseil|indication|intento|coment|pista|\u63d0\u793a|\u5efa\u8bae|\u53cd\u9988|\u5c1d\u8bd5"
)


def talks_of_feedback(text: str, *, question: str = "") -> bool:
    """True if `text` points at a critique, a hint or an earlier answer that `question` itself does not speak of."""
    plain, asked = (unicodedata.normalize("NFKC", part).casefold() for part in (text, question))
    own = set(_TOPICS.findall(asked))
    for pattern in _LANGUAGES:
        for found in pattern.finditer(plain):
            topics = set(_TOPICS.findall(found.group()))
            if not topics or topics - own:
                return True
    return False
