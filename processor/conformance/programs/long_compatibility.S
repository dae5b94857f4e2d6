# 32-bit code at privilege level 3 under a 64-bit kernel: operand sizes, wrap at 4 GiB, INC as one byte.
# mode: long
# expect: 0x33 0x2 0x80000001 0x0e00000d 0x0
.include "long.inc"
main:
    handle 6, done
    pushq $0x3b
    pushq $0x7400
    pushq $2
    pushq $0x33
    pushq $user
    iretq
.code32
user:
    movl %cs, %eax
    outl %eax, $0x80
    xorl %eax, %eax
    incl %eax
    .byte 0x40
    outl %eax, $0x80
    movl $0x80000000, %ebx
    leal 0x80000001(%ebx, %ebx), %eax
    outl %eax, $0x80
    hlt
.code64
done:
    finish
