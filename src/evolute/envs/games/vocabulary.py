"""The words of word games, by length; a hash decides the split of each.

words_of(length, split)     in alphabetical order
"""

from __future__ import annotations

from functools import cache

from evolute.envs.base import split_of

TEXT = """
able acid aged also area army away baby back ball band bank base bath bear beat bell belt best bird
blow blue boat body bone book boot born boss both bowl bulk burn bush busy cake call calm camp card
care case cash cast cave cell city clay club coal coat code cold cook cool copy core corn cost crew
crop dark data date dawn days dead deal dear debt deep deer desk dish dock door down draw drop drum
dust duty earn east easy edge else even exit face fact fair fall farm fast fate fear feed feel file
fill film find fine fire firm fish flag flat flow fold folk food foot fork form four free fuel full
fund gain game gate gift girl give glad goal goat gold golf good grey grow gulf half hall hand hard
harm head heat herb hero high hill hold hole home hope horn host hour huge hunt idea inch iron item
about above actor adopt after again agree alarm album alert alive allow alone angle apple arena
aside asset badge basic beach begin bench birth black blade blank block board brain brand bread
brick bride brief bring broad brown brush build cabin cable candy carry catch cause chain chair
chalk charm chart chase cheap check chest chief child claim class clean clear clerk climb clock
close cloth cloud coach coast color couch count court cover crane cream crowd crown curve cycle
daily dance depth diary doubt dozen draft drama dream dress drink drive eagle early earth eight
empty enjoy enter equal error event exact extra faith fault fence fever field fight final flame
flash fleet floor flour focus force frame fresh front frost fruit giant glass globe grace grade
grain grand grant grape grass great green group guard guess guest guide happy heart heavy honey
horse hotel house human image index inner issue jelly judge juice knife label large laugh layer
learn lemon level light limit local lucky lunch magic major maple march match medal metal minor
model money month motor mount mouse mouth movie music night noise north novel nurse ocean offer
olive onion orbit order other owner paint panel paper party peace pearl phase phone piano piece
pilot place plane plant plate point pound power press price pride prize proof queen quick quiet
radio raise range rapid reach ready refer right river robot round route royal rural salad scale
scene score sense serve seven shade shape share sharp sheep sheet shelf shell shift shirt shore
short skill sleep slice small smart smile smoke snake solid sound south space speak speed spice
spoon sport staff stage stand start steam steel stone store storm story straw sugar sunny sweet
table taste teach thank theme thing think tiger title today tooth total touch tower track trade
trail train treat trend trial truck trust truth uncle under union until upper urban usual valid
value video visit voice wagon waste watch water wheat wheel while white whole woman world worry
accept across action active advice afford agency agenda almost always amount animal answer appear
arrive artist aspect assist attack author autumn barely basket battle beauty become before behind
belief belong better beyond border borrow bottle bottom branch breath bridge bright broken bronze
budget burden butter button camera canvas carbon career castle casual center change charge choice
choose church circle client closet coffee column comedy common copper corner cotton county couple
course cousin create credit crisis custom damage danger debate decade decide defend define degree
demand depend deputy desert design desire detail dinner direct doctor dollar domain double driver
eating editor effect effort eleven empire enable energy engine enough ensure entire escape estate
evolve except expand expect expert export extend fabric factor family famous farmer father figure
finger finish flight flower follow forest forget formal friend future garden gather gentle global
golden ground growth guitar handle harbor health height hidden honest impact income indeed insect
inside island jacket jungle junior kindly ladder launch leader league legend lesson letter lively
lovely luxury manner market master matter meadow medium member memory mirror mobile modern moment
"""


@cache
def words_of(length: int, split: str) -> tuple[str, ...]:
    """Different words of that length; there are some hundreds of 4, 5 and 6 letters."""
    return tuple(
        sorted({w for w in TEXT.split() if len(w) == length and split_of(f"word {w}") == split})
    )
