# MSRs of the architecture, MSRs that the outside answers, and unknown ones.
# mode: long
# expect: 0x9abcdef0 0x12345678 0x55 0x66 0x0e00000d 0x0 0x1234 0x99
.include "long.inc"
main:
    movl $0x40000020, %ecx
    rdmsr
    outl %eax, $0x80
    report %edx
    movl $0x40000021, %ecx
    movl $0x55, %eax
    movl $0x66, %edx
    wrmsr
    catch 1f
    movl $0x40000022, %ecx
    rdmsr
1:  movl $0xc0000102, %ecx
    movl $0x1234, %eax
    xorl %edx, %edx
    wrmsr
    swapgs
    movl $0xc0000101, %ecx
    rdmsr
    outl %eax, $0x80
    report $0x99
    finish
