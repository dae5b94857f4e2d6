# Control and debug registers: what is stored, what is refused.
# mode: long
# expect: 0x80010033 0x0e00000d 0x0 0x80010033 0x12345000 0x0e00000d 0x0 0xabcd 0xffff0ff0 0x5
.include "long.inc"
main:
    movq %cr0, %rax
    outl %eax, $0x80
    # Paging without protection.
    catch 1f
    movq %cr0, %rax
    andq $-2, %rax
    movq %rax, %cr0
1:  movq %cr0, %rax
    outl %eax, $0x80
    movq $0x12345000, %rax
    movq %rax, %cr2
    movq %cr2, %rax
    outl %eax, $0x80
    # A reserved bit.
    catch 2f
    movq %cr4, %rax
    btsq $31, %rax
    movq %rax, %cr4
2:  movq $0xabcd, %rax
    movq %rax, %dr0
    movq %dr0, %rax
    outl %eax, $0x80
    movq %dr6, %rax
    outl %eax, $0x80
    movq $5, %rax
    movq %rax, %cr8
    movq %cr8, %rax
    outl %eax, $0x80
    finish
