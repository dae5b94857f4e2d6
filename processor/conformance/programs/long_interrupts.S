# Messages, ExtINT, NMI: delivered when allowed, held while not, ended with EOI.
# mode: long
# expect: 0x1 0x31 0x2 0x32 0x3 0x33 0x2002 0x5 0xe0100034 0x34 0x6
.include "long.inc"
main:
    handle 0x31, fixed
    handle 0x32, external
    handle 2, nmi
    handle 0x34, fixed
    # Software-enable the local APIC.
    movl $0xfee00000, %ebx
    movl $0x1ff, 0xf0(%rbx)
    # A message, held while interrupts are off.
    movl $0x31, %eax
    outl %eax, $0xa0
    report $1
    sti
    hlt
    cli
    report $2
    # The PIC's line.
    movl $0x700, 0x350(%rbx)
    movl $0x32, %eax
    outl %eax, $0xa1
    sti
    hlt
    cli
    report $3
    # An NMI needs no permission.
    movl $1000, %ecx
    outl %eax, $0xa2
1:  cmpl $0x33, seen
    loopne 1b
    outl %eax, $0x90
    report $0x5
    # Level-triggered: the end is reported before the handler's own report.
    movl $0x34, %eax
    outl %eax, $0xa3
    sti
    hlt
    cli
    report $6
    finish
fixed:
    movl $0, 0xb0(%rbx)
    # An exit, so that an engine that reports the end at its next exit has done so before our own report.
    outl %eax, $0x90
    movl (%rsp), %eax
    andl $0xff, %eax
    outl %eax, $0x80
    addq $16, %rsp
    iretq
external:
    report $0x32
    addq $16, %rsp
    iretq
nmi:
    report $0x33
    movl %eax, seen
    pushfq
    popq %rax
    andl $0x202, %eax
    orl $0x2000, %eax
    outl %eax, $0x80
    addq $16, %rsp
    iretq
seen: .long 0
