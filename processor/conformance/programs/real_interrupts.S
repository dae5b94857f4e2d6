# Divide error and a software interrupt through the vector table; IRET restores flags.
# mode: real
# needs: INT n at privilege level 0
# expect: 0x0e000000 0x44 0x1
.include "real.inc"
main:
    catch 1f
    xorw %dx, %dx
    xorw %cx, %cx
    movw $5, %ax
    divw %cx
1:  movw $handler, (0x1000 + 0x40 * 4)
    stc
    int $0x40
    pushfw
    popw %ax
    andl $1, %eax
    outl %eax, $0x80
    finish
handler:
    clc
    report $0x44
    iretw
