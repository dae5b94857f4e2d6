# SYSCALL and SYSRET: selectors, masked flags, return address.
# mode: long
# needs: SYSCALL to privilege level 0
# expect: 0x8 0x10 0x1 0x43 0x3b 0x203
.include "long.inc"
main:
    movl $0xc0000081, %ecx
    xorl %eax, %eax
    movl $0x00300008, %edx
    wrmsr
    movl $0xc0000082, %ecx
    movl $entry, %eax
    xorl %edx, %edx
    wrmsr
    movl $0xc0000084, %ecx
    movl $0x300, %eax
    wrmsr
    pushq $0x3b
    pushq $0x7400
    pushq $0x3203
    pushq $0x43
    pushq $user
    iretq
user:
    syscall
after:
    movl %cs, %eax
    outl %eax, $0x80
    movl %ss, %eax
    outl %eax, $0x80
    pushfq
    popq %rax
    andl $0x2ff, %eax
    outl %eax, $0x80
    finish
entry:
    movl %cs, %eax
    outl %eax, $0x80
    movl %ss, %eax
    outl %eax, $0x80
    xorl %eax, %eax
    cmpq $after, %rcx
    sete %al
    outl %eax, $0x80
    sysretq
