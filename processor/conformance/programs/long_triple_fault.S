# No usable interrupt table: the fault, the double fault and the end.
# mode: long
# expect: 0x1
# ends: TripleFault
.include "long.inc"
main:
    report $1
    lidt none
    ud2
none:
    .word 0
    .quad 0
