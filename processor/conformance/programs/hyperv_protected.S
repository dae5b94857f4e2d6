# Hypercalls of 32-bit code: operands in pairs of registers, the result in EDX:EAX, all others as they were.
# mode: protected
# hyperv: yes
# expect: 0x2 0x0 0x5678 0x12 0x0 0x0 0x207 0xcafe0200 0x99
.include "protected.inc"
.macro write_msr number, low, high=0
    movl $\number, %ecx
    movl $\low, %eax
    movl $\high, %edx
    wrmsr
.endm
.macro call_with control, input
    xorl %edx, %edx
    movl $\control, %eax
    xorl %ebx, %ebx
    movl $\input, %ecx
    movl $0x5678, %esi
    movl $0x200000, %edi
    call *%edi
.endm
main:
    write_msr 0x40000000, 0x50000, 0x8100
    write_msr 0x40000001, 0x200001
    write_msr 0x40000083, 0x201001
    write_msr 0x40000080, 1
    movl $0xdead, %edx
    call_with 0x7777, 0
    outl %eax, $0x80
    report %edx
    report %esi
    call_with 0x1005d, 0x999
    outl %eax, $0x80
    report %edx
    movl $1, 0x203000
    movl $0x207, 0x203008
    movl $4, 0x20300c
    movl $0xcafe0200, 0x203010
    call_with 0x5c, 0x203000
    outl %eax, $0x80
    report 0x201200
    report 0x201210
    report $0x99
    finish
