# Sums, carries and a loop in real mode, with 32-bit operands.
# mode: real
# expect: 0x1388 0x80000000 0x847 0x5 0xffff0000
.include "real.inc"
main:
    xorl %ecx, %ecx
    xorl %edx, %edx
1:  addl %ecx, %edx
    incl %ecx
    cmpl $100, %ecx
    jbe 1b
    subl $50, %edx
    report %edx
    movl $0x7fffffff, %eax
    incl %eax
    outl %eax, $0x80
    movw $0x7fff, %ax
    addw $1, %ax
    pushfw
    popw %ax
    andl $0x8d5, %eax
    xorl $0xd3, %eax
    outl %eax, $0x80
    movl $17, %eax
    xorl %edx, %edx
    movl $3, %ecx
    divl %ecx
    outl %eax, $0x80
    movl $-65536, %eax
    outl %eax, $0x80
    finish
