# Segment bases in real mode: the same byte through different selectors, and the wrap of offsets at 64 KiB.
# mode: real
# expect: 0x5a5a5a5a 0x5a5a5a5a 0x0e00000d 0x77
.include "real.inc"
main:
    movw $0x2000, %ax
    movw %ax, %es
    movl $0x5a5a5a5a, %es:(0x10)
    movw $0x2001, %ax
    movw %ax, %ds
    movl (0), %eax
    outl %eax, $0x80
    movw $0x1001, %ax
    movw %ax, %fs
    movl $0x10000, %ebx
    movw $0xfff0, %bx
    movl %fs:0x0(%bx), %eax
    movw $0x2000, %ax
    movw %ax, %gs
    movl %gs:(0x10), %eax
    outl %eax, $0x80
    xorw %ax, %ax
    movw %ax, %ds
    # A dword that would cross the segment's end.
    catch 1f
    movw $0xfffe, %bx
    movl (%bx), %eax
1:  report $0x77
    finish
